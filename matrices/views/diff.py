"""Compare two sets of cells: two checkpoint versions, or two releases.

Cells are matched by checkpoint name, recipe, target and toolchain, so that a new version is compared with the
old one; if one side holds several versions of a checkpoint, they are matched by version too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal, get_args

from pydantic import Field

from matrices.cells.cell import Cell, State
from matrices.cells.levels import earned_tiers, evaluated_on, evidence_level, rank
from matrices.releases.release import Release, UnreleasedCell
from matrices.views.table import one_line, size
from registry.value import Value

Direction = Literal["better", "worse", "other"]


class Side(Value):
    """The facts about one cell that are compared."""

    id: str
    state: str
    artifact: str | None = None
    size_bytes: int | None = None
    kl: float | None = None
    """Nats to the fp32 checkpoint."""
    level: str | None = None
    """How far its evidence on the chip goes."""
    measured_on: str | None = None
    """Chip and driver."""
    tiers: dict[str, int | None] = Field(default={})
    accuracies: dict[str, float] = Field(default={})


class Change(Value):
    """One difference."""

    what: str
    """`state`, `level`, `chip`, `tier`, `accuracy`, `kl`, `size` or `artifact`."""
    task: str | None = None
    before: str
    after: str
    direction: Direction


class CellDiff(Value):
    """One cell of the matrix on both sides."""

    place: str
    kind: Literal["added", "removed", "changed", "same"]
    before: Side | None
    after: Side | None
    changes: tuple[Change, ...] = ()


class Diff(Value):
    """All differences between two sides, sorted by cell."""

    before: str
    after: str
    cells: tuple[CellDiff, ...]


def diff_cells(before: Iterable[Cell], after: Iterable[Cell], *, names: tuple[str, str]) -> Diff:
    """The differences between two sets of cells.

    Args:
        before: One side.
        after: The other.
        names: The names of the two sides.
    """
    return _diff([_side(cell) for cell in before], [_side(cell) for cell in after], names=names)


def diff_releases(before: Release, after: Release) -> Diff:
    """The differences between two releases; cells that were not released are compared by state and tiers."""
    return _diff(_sides(before), _sides(after), names=(before.name, after.name))


def diff_lines(diff: Diff) -> list[str]:
    """The differences as lines for a person; cells that are the same are only counted."""
    lines = [f"{diff.before} → {diff.after}"]
    for cell in diff.cells:
        match cell.kind:
            case "same":
                continue
            case "added":
                lines.append(f"+ {cell.place}  {cell.after.state if cell.after else ''}")
            case "removed":
                lines.append(f"- {cell.place}  {cell.before.state if cell.before else ''}")
            case "changed":
                lines.append(f"~ {cell.place}")
                lines += [f"    {_sentence(change)}" for change in cell.changes]
    same = sum(cell.kind == "same" for cell in diff.cells)
    return [*lines, f"{same} of {len(diff.cells)} places are the same"]


def diff_markdown(diff: Diff) -> str:
    """The differences as a Markdown table."""
    lines = [
        f"`{diff.before}` → `{diff.after}`",
        "",
        "| place | what | before | after | |",
        "|---|---|---|---|---|",
    ]
    for cell in diff.cells:
        place = cell.place.replace("|", "\\|")
        if cell.kind in ("added", "removed"):
            states = (cell.before.state if cell.before else "", cell.after.state if cell.after else "")
            lines.append(f"| `{place}` | {cell.kind} | {states[0]} | {states[1]} | |")
        for change in cell.changes:
            what = f"{change.what} {change.task}" if change.task else change.what
            lines.append(f"| `{place}` | {what} | {change.before} | {change.after} | {change.direction} |")
    return "\n".join(lines) + "\n"


def _sentence(change: Change) -> str:
    what = f"{change.what} for {change.task}" if change.task else change.what
    judged = "" if change.direction == "other" else f" ({change.direction})"
    return f"{what}: {change.before} → {change.after}{judged}"


def _side(cell: Cell) -> Side:
    return Side(
        id=cell.id,
        state=cell.state,
        artifact=cell.artifact,
        size_bytes=cell.size_bytes,
        kl=cell.parity.kl if cell.parity else None,
        level=evidence_level(cell),
        measured_on=_chip(cell),
        tiers=earned_tiers(cell),
        accuracies={result.task_type: result.accuracy for result in cell.tasks},
    )


def _chip(cell: Cell) -> str | None:
    entry = evaluated_on(cell)
    if entry is None or entry.chip is None:
        return None
    return entry.chip + (f", driver {entry.driver}" if entry.driver else "")


def _sides(release: Release) -> list[Side]:
    return [_side(one.cell) for one in release.cells] + [_other(one) for one in release.others]


def _other(candidate: UnreleasedCell) -> Side:
    return Side(id=candidate.id, state=candidate.state, tiers=dict(candidate.tasks))


def _diff(before: list[Side], after: list[Side], *, names: tuple[str, str]) -> Diff:
    key = _key_for(before, after)
    old, new = {key(side.id): side for side in before}, {key(side.id): side for side in after}
    cells = tuple(_compare(name, old.get(name), new.get(name)) for name in sorted(old | new))
    return Diff(before=names[0], after=names[1], cells=cells)


def _key_for(before: list[Side], after: list[Side]) -> Callable[[str], str]:
    for side in (before, after):
        if len({_without_version(one.id) for one in side}) < len(side):
            return str
    return _without_version


def _without_version(name: str) -> str:
    checkpoint, _, rest = name.partition(":")
    return checkpoint.rpartition("/")[0] + ":" + rest


def _compare(name: str, before: Side | None, after: Side | None) -> CellDiff:
    if before is None or after is None:
        kind: Literal["added", "removed"] = "added" if before is None else "removed"
        return CellDiff(place=name, kind=kind, before=before, after=after)
    changes = (*_plain_changes(before, after), *_task_changes(before, after))
    kind_of: Literal["changed", "same"] = "changed" if changes else "same"
    return CellDiff(place=name, kind=kind_of, before=before, after=after, changes=changes)


def _plain_changes(before: Side, after: Side) -> list[Change]:
    changes: list[Change] = []
    if before.state != after.state:
        direction = _direction(before.state, after.state)
        changes.append(Change(what="state", before=before.state, after=after.state, direction=direction))
    if before.level and after.level and before.level != after.level:
        direction = _direction(before.level, after.level)
        changes.append(Change(what="level", before=before.level, after=after.level, direction=direction))
    if before.measured_on and after.measured_on and before.measured_on != after.measured_on:
        chips = before.measured_on, after.measured_on
        changes.append(Change(what="chip", before=chips[0], after=chips[1], direction="other"))
    if before.kl is not None and after.kl is not None and before.kl != after.kl:
        direction = "better" if after.kl < before.kl else "worse"
        texts = f"{before.kl:.2e} nats", f"{after.kl:.2e} nats"
        changes.append(Change(what="kl", before=texts[0], after=texts[1], direction=direction))
    if None not in (before.size_bytes, after.size_bytes) and before.size_bytes != after.size_bytes:
        texts = (
            f"{size(before.size_bytes)} ({before.size_bytes})",
            f"{size(after.size_bytes)} ({after.size_bytes})",
        )
        direction = "better" if (after.size_bytes or 0) < (before.size_bytes or 0) else "worse"
        changes.append(Change(what="size", before=texts[0], after=texts[1], direction=direction))
    if before.artifact and after.artifact and before.artifact != after.artifact:
        old, new = one_line(before.artifact)[7:19], one_line(after.artifact)[7:19]
        changes.append(Change(what="artifact", before=old, after=new, direction="other"))
    return changes


def _task_changes(before: Side, after: Side) -> list[Change]:
    changes: list[Change] = []
    for task in sorted({*before.tiers, *after.tiers}):
        old, new = _tier(before, task), _tier(after, task)
        if old != new:
            direction: Direction = "better" if _rank(new) < _rank(old) else "worse"
            changes.append(Change(what="tier", task=task, before=old, after=new, direction=direction))
        accuracies = before.accuracies.get(task), after.accuracies.get(task)
        if accuracies[0] is not None and accuracies[1] is not None and accuracies[0] != accuracies[1]:
            direction = "better" if accuracies[1] > accuracies[0] else "worse"
            texts = f"{accuracies[0]:.3f}", f"{accuracies[1]:.3f}"
            changes.append(
                Change(what="accuracy", task=task, before=texts[0], after=texts[1], direction=direction)
            )
    return changes


def _tier(side: Side, task: str) -> str:
    if task not in side.tiers:
        return "not measured"
    tier = side.tiers[task]
    return "none" if tier is None else str(tier)


def _rank(tier: str) -> int:
    return int(tier) if tier.isdecimal() else {"none": 1000, "not measured": 1001}[tier]


def _direction(before: str, after: str) -> Direction:
    low, high = _state_rank(before), _state_rank(after)
    return "other" if low == high else "better" if high > low else "worse"


def _state_rank(state: str) -> int:
    """Rank on the ladder of evidence; -1 for states that are off the ladder or unknown."""
    known = next((one for one in get_args(State) if one == state), None)
    found = None if known is None else rank(known)
    return -1 if found is None else found
