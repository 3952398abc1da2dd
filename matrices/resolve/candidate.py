"""Candidates: what each cell of a ladder would give for a request, whether it was released or not.

A released cell comes with its manifest and approval; of the others a release only keeps id, target, state,
reason and earned tiers. The gates ask both the same questions.
"""

from __future__ import annotations

from dataclasses import dataclass

from matrices.cells.levels import earned_tiers
from matrices.releases.release import Release, ReleasedCell, UnreleasedCell
from matrices.resolve.request import Request
from registry.ladder import EvidenceLevel

Preference = tuple[int, int, bool, int, int, str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One candidate."""

    id: str
    target: str
    earned: dict[str, int | None]
    """Task type → tier earned; a task type that was not measured is absent."""
    released: ReleasedCell | None = None
    other: UnreleasedCell | None = None
    demanded: EvidenceLevel | None = None
    """Least evidence that the release demands of the target, where it demands any."""

    @property
    def waiver(self) -> str | None:
        """Why missing evidence was accepted, where it was."""
        return self.released.approval.waiver if self.released else None

    def tiers(self, request: Request) -> dict[str, int | None]:
        """Task type asked for → tier earned."""
        return {task: self.earned.get(task) for task in request.tasks}

    def tier(self, request: Request) -> int | None:
        """Worst earned tier over the task types asked for; None if one of them has none."""
        tiers = list(self.tiers(request).values())
        known = [tier for tier in tiers if tier is not None]
        return max(known) if len(known) == len(tiers) else None

    def preference(self, request: Request) -> Preference:
        """Least is taken first; only for candidates that pass the gates."""
        tiers = [tier for tier in self.tiers(request).values() if tier is not None]
        memory, size, digest = self.memory_bytes(request) or 0, 0, ""
        if self.released:
            size, digest = self.released.manifest.size_bytes, self.released.manifest.digest
        return (max(tiers, default=0), sum(tiers), self.waiver is not None, memory, size, self.id, digest)

    def context_tokens(self, request: Request) -> int | None:
        """Tokens of one conversation; None for a cell that was not released."""
        if self.released is None:
            return None
        return request.context_tokens or self.released.manifest.facts.max_context

    def memory_bytes(self, request: Request) -> int | None:
        """Memory for weights and KV cache; None for a cell that was not released."""
        context = self.context_tokens(request)
        if self.released is None or context is None:
            return None
        manifest = self.released.manifest
        return manifest.memory_bytes + request.batch * context * manifest.kv_bytes_per_token

    def terms(self, request: Request) -> str:
        """What a caller gets, for people."""
        tiers = ", ".join(f"{task} tier {tier}" for task, tier in self.tiers(request).items())
        memory = (self.memory_bytes(request) or 0) / 1e6
        waived = f"; waiver: {self.waiver}" if self.waiver else ""
        return f"{tiers}; {memory:,.1f} MB with its KV cache{waived}"


def candidates(release: Release) -> list[Candidate]:
    """Every cell of the release's ladder."""
    released = [
        Candidate(
            id=one.cell.id,
            target=one.cell.target,
            earned=earned_tiers(one.cell),
            released=one,
            demanded=release.min_evidence.get(one.cell.target),
        )
        for one in release.cells
    ]
    others = [
        Candidate(id=one.id, target=one.target, earned=dict(one.tasks), other=one) for one in release.others
    ]
    return released + others
