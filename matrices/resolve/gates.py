"""The gates of resolution: pure rules that a candidate passes, fails, or leaves open if a fact is unknown.

Each gives its reason in one sentence, with the values. `GATES`, at the end, lists their names and order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, get_args

from matrices.cells.cell import LADDER, State
from matrices.cells.levels import demand_unmet, evaluated_on
from matrices.chips.memory import memories_for
from matrices.releases.release import ReleasedCell
from matrices.resolve.candidate import Candidate
from matrices.resolve.facts import Facts
from registry.digest import short
from registry.host import Host
from registry.target import Target, missing_features, targets

_ARCHITECTURES: Final = ("unknown", "")


GateName = Literal["pin", "hardware", "evidence", "quality", "approval", "capacity"]


@dataclass(frozen=True, slots=True)
class GateResult:
    """What a gate found."""

    outcome: Literal["pass", "deny", "indeterminate"]
    reason: str = ""


PASS: Final = GateResult("pass")
Gate = Callable[[Candidate, Facts], GateResult]


def pin_gate(candidate: Candidate, facts: Facts) -> GateResult:
    """If the request names an artifact, the candidate is that artifact."""
    pinned = facts.request.artifact
    if pinned is None or (candidate.released and candidate.released.manifest.digest == pinned):
        return PASS
    return _deny(f"is not the artifact {short(pinned)} that was asked for")


def hardware_gate(candidate: Candidate, facts: Facts) -> GateResult:
    """The host has what the target's code uses, and the artifact's runtime is installed."""
    host = facts.host
    target = targets().get(candidate.target)
    if target is None:
        return _unknown(f"this version of Rung does not know the target `{candidate.target}`")
    if target.kind == "cpu" and host.architecture in _ARCHITECTURES:
        return _unknown("the host's architecture is not known")
    if lacking := missing_features(host, target=target):
        return _lacks(lacking, target=target, host=host)
    return PASS if candidate.released is None else _runtime_installed(candidate.released, facts)


def evidence_gate(candidate: Candidate, facts: Facts) -> GateResult:
    """It has the evidence that the release demands, for exactly this artifact and version of its runtime."""
    if candidate.released is None:
        return _evidence_of_other(candidate)
    cell, manifest = candidate.released.cell, candidate.released.manifest
    if cell.artifact != manifest.digest:
        return _deny(
            f"its evidence is of the artifact {short(cell.artifact or 'none')}, not {short(manifest.digest)}"
        )
    if unmet := demand_unmet(cell, demanded=candidate.demanded):
        return _deny(unmet)
    entry = evaluated_on(cell)
    if entry is None and candidate.demanded not in (None, "evaluated", "benchmarked"):
        return PASS  # the release demands no more; the quality gate refuses a candidate without a tier
    if entry is None:
        return _deny("no evaluation of this artifact names the version of its runtime")
    if facts.runtimes is None:
        return _unknown(f"the installed version of `{manifest.format}` is not known")
    installed = facts.runtimes.get(manifest.format)
    if installed is None:
        return (
            PASS  # there is no version to compare; the hardware gate refuses a runtime that is not installed
        )
    if (entry.runtime, entry.runtime_version) != (manifest.format, installed):
        was = f"{entry.runtime} {entry.runtime_version}"
        return _deny(f"its evidence expired: evaluated on {was}, installed is {manifest.format} {installed}")
    return PASS


def quality_gate(candidate: Candidate, facts: Facts) -> GateResult:
    """It earned the lowest acceptable tier, or a better one, for every task type asked for."""
    request = facts.request
    for task in request.tasks:
        if task not in candidate.earned:
            return _deny(f"was never evaluated for `{task}`")
        tier = candidate.earned[task]
        if tier is None:
            return _deny(f"earned no tier for `{task}`{_best_verdict(candidate, task)}")
        if tier > request.min_tier:
            asked = request.min_tier
            return _deny(f"earned tier {tier} for `{task}`, but tier {asked} or better was requested")
    return PASS


def approval_gate(candidate: Candidate, facts: Facts) -> GateResult:
    """A person approved exactly this artifact, it is in the release, and both still hold.

    An approval holds until the release expires or the artifact is on the revocation list.
    """
    if candidate.released is None:
        state = candidate.other.state if candidate.other else "unknown"
        why = f": {candidate.other.reason}" if candidate.other and candidate.other.reason else ""
        return _deny(f"is not in the release ({state}{why})")
    cell, approval = candidate.released.cell, candidate.released.approval
    if cell.state != "approved":
        return _deny(f"has the state `{cell.state}`, not `approved`")
    if approval.artifact != candidate.released.manifest.digest:
        return _deny(f"was approved as the artifact {short(approval.artifact)}, which this is not")
    if (revoked := facts.revoked.get(candidate.released.manifest.digest)) is not None:
        return _deny(f"was revoked: {revoked}")
    if candidate.expires_at is None:
        return PASS
    end = f"{candidate.expires_at:%Y-%m-%d %H:%M}Z"
    if facts.at is None:
        return _unknown(f"its release ends {end}, and the time is not known")
    return PASS if facts.at < candidate.expires_at else _deny(f"its release expired {end}")


def capacity_gate(candidate: Candidate, facts: Facts) -> GateResult:
    """Weights and KV cache fit in memory, and the conversation in the checkpoint's context.

    Memory is the host's, or that of one accelerator: the driver's figure, or else the chip table's.
    """
    if candidate.released is None:
        return PASS  # the release does not hold its size; the approval gate refuses it
    longest = candidate.released.manifest.facts.max_context
    context = candidate.context_tokens(facts.request) or longest
    if context > longest:
        return _deny(f"holds {longest} tokens of context, asked for are {context}")
    target = targets().get(candidate.target)
    if target is None:
        return _unknown(f"the memory that `{candidate.target}` has on the host is not known")
    memories = memories_for(target, facts.host)
    if not memories:
        return PASS  # no accelerator of the host runs the target; the hardware gate refuses it
    needed = candidate.memory_bytes(facts.request) or 0
    if any(each.usable_bytes is not None and needed <= each.usable_bytes for each in memories):
        return PASS
    unknown = next((each for each in memories if each.usable_bytes is None), None)
    if unknown is not None:
        return _unknown(f"the memory of {unknown.owner} is not known")
    largest = max(memories, key=lambda each: each.usable_bytes or 0)
    load = f"{needed / 1e6:,.1f} MB for {facts.request.batch} × {context} tokens of context"
    return _deny(f"needs {load}, {largest.owner} can give {(largest.usable_bytes or 0) / 1e6:,.1f} MB")


def _deny(reason: str) -> GateResult:
    return GateResult("deny", reason)


def _unknown(reason: str) -> GateResult:
    return GateResult("indeterminate", reason)


def _lacks(lacking: tuple[str, ...], *, target: Target, host: Host) -> GateResult:
    if target.kind != "cpu":
        here = ", ".join(each.architecture for each in host.accelerators) or "no accelerator"
        return _deny(f"`{target.name}` needs {lacking[0]}, the host has {here}")
    if target.architecture != host.architecture:
        return _deny(f"`{target.name}` is for {target.architecture}, the host is {host.architecture}")
    if not host.features:
        return _unknown("the host's processor flags are not known")
    return _deny(f"`{target.name}` needs {', '.join(lacking)}, which the host lacks")


def _runtime_installed(released: ReleasedCell, facts: Facts) -> GateResult:
    needed = released.manifest.format
    if facts.runtimes is not None and needed not in facts.runtimes:
        return _deny(f"the runtime `{needed}` is not installed on the host")
    return PASS


def _evidence_of_other(candidate: Candidate) -> GateResult:
    state = candidate.other.state if candidate.other else "unknown"
    reason = candidate.other.reason if candidate.other else ""
    if state not in get_args(State):
        return _unknown(f"this version of Rung does not know the state `{state}`")
    came_far = state in ("rejected", "withdrawn") or (
        state in LADDER and LADDER.index(_as_state(state)) >= LADDER.index("evaluated")
    )
    if came_far:
        return PASS
    return _deny(f"is {state}" + (f": {reason}" if reason else ", was never evaluated"))


def _as_state(state: str) -> State:
    return next(known for known in LADDER if known == state)


def _best_verdict(candidate: Candidate, task: str) -> str:
    if candidate.released is None:
        return ""
    verdicts = [
        verdict
        for result in candidate.released.cell.tasks
        if result.task_type == task
        for verdict in result.verdicts
    ]
    return f": {verdicts[-1].status} for tier {verdicts[-1].tier}, {verdicts[-1].reason}" if verdicts else ""


GATES: Final[tuple[tuple[GateName, Gate], ...]] = (
    ("pin", pin_gate),
    ("hardware", hardware_gate),
    ("evidence", evidence_gate),
    ("quality", quality_gate),
    ("approval", approval_gate),
    ("capacity", capacity_gate),
)
"""Name and rule of each gate, in the order in which they are asked."""
