"""Resolution: choose the artifact that a host may serve for a request, and explain every other candidate.

Pure: it needs only a release, no database and no network. Every cell of the ladder is a candidate, including
those that were not released. Each goes through the gates in order, and the first gate that it fails refuses
it; the decision lists them all. An unknown fact counts as a refusal (`indeterminate`), never as a pass.

Among the candidates that pass, the best earned tier wins (the worst over the task types asked for, then their
sum); then a cell approved without a waiver; then the one that needs the least memory, since decoding is bound
by reading the weights; then the smallest file size; then the first id. The order of cells in the release does
not matter.

A new rule is one more function in `GATES` (docs/how-to/add-a-gate.md).
"""

from __future__ import annotations

import difflib
from typing import Literal

from pydantic import Field

from matrices.releases.release import Release, ReleasedCell
from matrices.resolve.candidate import Candidate, candidates
from matrices.resolve.facts import Facts
from matrices.resolve.gates import GATES, Gate, GateName, GateResult
from matrices.resolve.request import Request
from registry.digest import Digest
from registry.value import Value


class Considered(Value):
    """One candidate and its outcome."""

    id: str
    target: str
    outcome: Literal["chosen", "allow", "deny", "indeterminate"]
    """`allow`: it could be served too, but another is preferred."""
    gate: GateName | None = None
    """First gate that it failed."""
    reason: str
    """Why it was refused, or what it offers."""
    tier: int | None = None
    """Worst earned tier over the task types asked for; None: at least one task type has no tier."""
    waiver: str | None = None
    """Why missing evidence was accepted, where it was."""


class NearMiss(Value):
    """A candidate that only one gate refuses: what would be possible if that changed."""

    id: str
    tier: int
    """Tier that it would give."""
    gate: GateName
    """The only gate that it fails."""
    reason: str


class Decision(Value):
    """What a host may serve for a request, with every reason."""

    outcome: Literal["allow", "deny", "indeterminate"]
    """`indeterminate` also means no: an unknown fact could have allowed it."""
    reason: str
    """One sentence."""
    release: str
    release_digest: Digest
    request: Request
    chosen: ReleasedCell | None = None
    tier: int | None = None
    """Worst tier of the chosen cell over the task types asked for."""
    tiers: dict[str, int] = Field(default={})
    """Task type asked for → tier that the chosen cell earned."""
    candidates: tuple[Considered, ...]
    """Every cell of the ladder: those that could be served, by preference, then those refused, by id."""
    feasible_tier: int | None = None
    """Best tier that this host could serve for the task types now, whatever tier was asked for."""
    near_misses: tuple[NearMiss, ...] = ()
    """Candidates that fail exactly one gate, sorted by the tier they would give."""

    def is_only(self, gate: GateName) -> bool:
        """Whether every candidate failed this gate first."""
        return bool(self.candidates) and all(one.gate == gate for one in self.candidates)


def resolve(release: Release, facts: Facts, *, gates: tuple[tuple[GateName, Gate], ...] = GATES) -> Decision:
    """Choose what a host may serve from a release.

    Args:
        release: The verified release.
        facts: The request, and what is known about the machine.
        gates: The rules, in order.
    """
    request = facts.request
    if refusal := _unanswerable(release, request):
        return _empty(release, request, refusal)
    judged = [(candidate, _judge(candidate, facts, gates=gates)) for candidate in candidates(release)]
    allowed = sorted(
        (candidate for candidate, failed in judged if not failed),
        key=lambda candidate: candidate.preference(request),
    )
    chosen = allowed[0] if allowed else None
    return Decision(
        outcome=_outcome(allowed, judged),
        reason=_sentence(chosen, judged, request=request),
        release=release.name,
        release_digest=release.digest,
        request=request,
        chosen=chosen.released if chosen else None,
        tier=chosen.tier(request) if chosen else None,
        tiers={task: tier for task, tier in chosen.tiers(request).items() if tier is not None}
        if chosen
        else {},
        candidates=_considered(allowed, judged, request=request),
        feasible_tier=_feasible_tier(judged, request=request),
        near_misses=_near_misses(judged, request=request),
    )


Failed = list[tuple[GateName, GateResult]]
"""Gates that a candidate fails, in order, with their results."""


def _judge(candidate: Candidate, facts: Facts, *, gates: tuple[tuple[GateName, Gate], ...]) -> Failed:
    found = [(name, gate(candidate, facts)) for name, gate in gates]
    return [(name, finding) for name, finding in found if finding.outcome != "pass"]


def _unanswerable(release: Release, request: Request) -> str | None:
    if request.family != release.family:
        return f"the release `{release.name}` holds the family `{release.family}`, not `{request.family}`"
    for task in request.tasks:
        if task not in release.tasks:
            near = difflib.get_close_matches(task, release.tasks, n=1, cutoff=0.5)
            known = f"did you mean `{near[0]}`?" if near else "it has " + ", ".join(sorted(release.tasks))
            return f"the release `{release.name}` has no task type `{task}`; {known}"
    return None


def _empty(release: Release, request: Request, reason: str) -> Decision:
    return Decision(
        outcome="deny",
        reason=reason,
        release=release.name,
        release_digest=release.digest,
        request=request,
        candidates=(),
    )


def _outcome(
    allowed: list[Candidate], judged: list[tuple[Candidate, Failed]]
) -> Literal["allow", "deny", "indeterminate"]:
    if allowed:
        return "allow"
    # The answer is open only if some candidate would pass should every unknown fact turn out well.
    is_open = any(all(finding.outcome == "indeterminate" for _, finding in failed) for _, failed in judged)
    return "indeterminate" if is_open else "deny"


def _sentence(chosen: Candidate | None, judged: list[tuple[Candidate, Failed]], *, request: Request) -> str:
    asked = f"tier {request.min_tier} or better for {', '.join(request.tasks)}"
    if chosen is not None:
        waived = f"; approved under a waiver: {chosen.waiver}" if chosen.waiver else ""
        return f"`{chosen.id}` gives tier {chosen.tier(request)} for {', '.join(request.tasks)}{waived}"
    if not judged:
        return f"nothing gives {asked}: the release has no cells"
    best = _feasible_tier(judged, request=request)
    if best is not None and best > request.min_tier:
        return f"nothing gives {asked} here; tier {best} is possible"
    return f"nothing gives {asked} here"


def _considered(
    allowed: list[Candidate], judged: list[tuple[Candidate, Failed]], *, request: Request
) -> tuple[Considered, ...]:
    passed = tuple(
        Considered(
            id=candidate.id,
            target=candidate.target,
            outcome="chosen" if candidate is allowed[0] else "allow",
            reason=candidate.terms(request),
            tier=candidate.tier(request),
            waiver=candidate.waiver,
        )
        for candidate in allowed
    )
    refused = sorted((pair for pair in judged if pair[1]), key=lambda pair: pair[0].id)
    return passed + tuple(
        Considered(
            id=candidate.id,
            target=candidate.target,
            outcome="indeterminate" if failed[0][1].outcome == "indeterminate" else "deny",
            gate=failed[0][0],
            reason=failed[0][1].reason,
            tier=candidate.tier(request),
            waiver=candidate.waiver,
        )
        for candidate, failed in refused
    )


def _feasible_tier(judged: list[tuple[Candidate, Failed]], *, request: Request) -> int | None:
    tiers = [
        tier
        for candidate, failed in judged
        if all(name == "quality" for name, _ in failed) and (tier := candidate.tier(request)) is not None
    ]
    return min(tiers, default=None)


def _near_misses(judged: list[tuple[Candidate, Failed]], *, request: Request) -> tuple[NearMiss, ...]:
    found = [
        NearMiss(id=candidate.id, tier=tier, gate=failed[0][0], reason=failed[0][1].reason)
        for candidate, failed in judged
        if len(failed) == 1 and (tier := candidate.tier(request)) is not None
    ]
    return tuple(sorted(found, key=lambda miss: (miss.tier, miss.id)))
