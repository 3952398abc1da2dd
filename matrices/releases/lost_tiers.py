"""Tiers that a release would lose: what its ladder promises, callers could have, and it does not have.

A ladder promises its tiers for each of its task types on each of its targets; a cell of a better tier keeps
the promise of those below. A promise that nothing ever kept is not lost. One is lost if the family's latest
release keeps it on a target and the new one does not, or if a cell of the ladder earned it and the new
release keeps it nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from matrices.cells.cell import Cell
from matrices.cells.levels import earned_tiers
from matrices.releases.release import Release


@dataclass(frozen=True, slots=True, order=True)
class LostTier:
    """A tier of a task type that callers would not get any more."""

    tier: int
    task_type: str
    target: str
    """Where; empty: nowhere."""
    kept_by: str
    """The cell that has earned it."""
    release: str
    """The release that holds that cell; empty: none."""

    @property
    def words(self) -> str:
        """The loss in a few words."""
        where = f" on {self.target}" if self.target else ""
        by = f"`{self.kept_by}` of release `{self.release}`" if self.release else f"`{self.kept_by}`"
        return f"tier {self.tier} of {self.task_type}{where}, which {by} has"


def lost_tiers(
    made: Release, *, latest: Release | None, cells: Iterable[Cell], targets: Collection[str]
) -> tuple[LostTier, ...]:
    """The tiers that a release would lose, sorted.

    Args:
        made: The release, not signed yet.
        latest: The family's latest release; None: there is none.
        cells: All cells of the ladder.
        targets: The ladder's targets.
    """
    kept = {(on, task, tier) for on, task, tier, _ in _kept(made, (one.cell for one in made.cells))}
    anywhere = {(task, tier) for _, task, tier in kept}
    found: dict[tuple[str, str, int], LostTier] = {}
    if latest is not None:
        for target, task, tier, cell in _kept(made, (one.cell for one in latest.cells)):
            if target in targets and (target, task, tier) not in kept:
                found.setdefault((target, task, tier), LostTier(tier, task, target, cell, latest.name))
    said = {(task, tier) for _, task, tier in found}
    for _, task, tier, cell in _kept(made, cells):
        if (task, tier) not in anywhere | said:
            found.setdefault(("", task, tier), LostTier(tier, task, "", cell, ""))
    return tuple(sorted(found.values()))


def _kept(promised: Release, cells: Iterable[Cell]) -> Iterator[tuple[str, str, int, str]]:
    """Target, task type and tier of each promise that a cell keeps, and its id."""
    for cell in cells:
        for task, earned in earned_tiers(cell).items():
            if task in promised.tasks and earned is not None:
                for tier in range(earned, promised.tiers + 1):
                    yield cell.target, task, tier, cell.id
