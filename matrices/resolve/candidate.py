"""Candidates: the cells of a ladder that resolution chooses from, released or not.

A released cell comes with its manifest and approval. Of the others, a release keeps only the id, target,
state, reason and earned tiers. The same gates apply to both.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from matrices.cells.levels import earned_tiers
from matrices.releases.release import Release, ReleasedCell, UnreleasedCell
from matrices.resolve.request import Request
from registry.ladder import EvidenceLevel

Preference = tuple[int, int, bool, int, int, str, str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A cell that resolution may choose."""

    id: str
    target: str
    earned: dict[str, int | None]
    """Task type → tier earned; a task type that was not measured is absent."""
    released: ReleasedCell | None = None
    other: UnreleasedCell | None = None
    demanded: EvidenceLevel | None = None
    """Least evidence that the release demands for the target; None: it demands none."""
    expires_at: datetime | None = None
    """When its release ends; None: never."""

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
        """Sort key among candidates that pass the gates: the smallest is chosen."""
        tiers = [tier for tier in self.tiers(request).values() if tier is not None]
        memory, size, digest = self.memory_bytes(request) or 0, 0, ""
        if self.released:
            size, digest = self.released.manifest.size_bytes, self.released.manifest.digest
        return (max(tiers, default=0), sum(tiers), self.waiver is not None, memory, size, self.id, digest)

    def context_tokens(self, request: Request) -> int | None:
        """Length of one conversation in tokens; None for a cell that was not released."""
        if self.released is None:
            return None
        return request.context_tokens or self.released.manifest.facts.max_context

    def memory_bytes(self, request: Request) -> int | None:
        """Memory needed for weights and KV cache; None for a cell that was not released."""
        context = self.context_tokens(request)
        if self.released is None or context is None:
            return None
        return self.released.manifest.serving_memory_bytes(callers=request.batch, tokens=context)

    def terms(self, request: Request) -> str:
        """What a caller gets, for people."""
        tiers = ", ".join(f"{task} tier {tier}" for task, tier in self.tiers(request).items())
        memory = (self.memory_bytes(request) or 0) / 1e6
        waived = f"; waiver: {self.waiver}" if self.waiver else ""
        return f"{tiers}; {memory:,.1f} MB with its KV cache{waived}"


def candidates(release: Release) -> list[Candidate]:
    """Every cell of the release's ladder."""
    from_release = [
        Candidate(
            id=released.cell.id,
            target=released.cell.target,
            earned=earned_tiers(released.cell),
            released=released,
            demanded=release.min_evidence.get(released.cell.target),
            expires_at=release.expires_at,
        )
        for released in release.cells
    ]
    others = [
        Candidate(id=other.id, target=other.target, earned=dict(other.tasks), other=other)
        for other in release.others
    ]
    return from_release + others
