"""What the evidence of a cell amounts to: its place on the ladder, whether it suffices, whether it expired.

Pure: values in, sentences out. The rules:

- A cell may be approved without a waiver if its artifact loaded, its parity is within the recipe's bound,
  it was evaluated on every task type of the ladder, and for each of them it **keeps what its checkpoint
  has**: it passes the bar of its checkpoint's own place in the ladder, or a better one. Where the
  checkpoint itself misses the floor of its place, being non-inferior to it is enough; the cell then earns
  no tier for that task type.
- It must earn a tier for at least one task type.
- Evidence holds for one artifact, one runtime and one version of it, compared as exact strings: what is
  evaluated is what is shipped. Any other version has expired evidence, a patch release too, because kernels
  change there.
- A waiver lets a cell be approved with evidence missing. It never grants a tier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from matrices.cell import LADDER, Cell, Evidence, State, TaskResult


def place(state: State) -> int | None:
    """How high a state stands on the ladder of evidence, 0 for `declared`; None if it is off the ladder."""
    return LADDER.index(state) if state in LADDER else None


def reached(cell: Cell, *, state: State) -> bool:
    """Whether the cell stands at `state` or higher now."""
    here, there = place(cell.state), place(state)
    return here is not None and there is not None and here >= there


def evaluated_on(cell: Cell) -> Evidence | None:
    """The latest evaluation of the cell's own artifact that names its runtime's version, if there is one."""
    for entry in reversed(cell.evidence):
        if entry.state == "evaluated" and entry.digest == cell.artifact and entry.runtime_version:
            return entry
    return None


def earned_tiers(cell: Cell) -> dict[str, int | None]:
    """Task type → best tier earned; None where none is."""
    return {result.task_type: result.tier for result in cell.tasks}


def missing_evidence(cell: Cell, *, tasks: Iterable[str]) -> list[str]:
    """What stands between the cell and an approval without a waiver, one sentence each.

    Args:
        cell: The cell with its evidence.
        tasks: All task types of the ladder.
    """
    found = _missing_steps(cell)
    if cell.artifact is None:
        return found
    results = {result.task_type: result for result in cell.tasks}
    for task in sorted({*tasks, *results}):
        if task not in results:
            found.append(f"never evaluated for `{task}`")
        elif shortfall := _shortfall(results[task], own=cell.tier):
            found.append(shortfall)
    if results and all(result.tier is None for result in results.values()):
        found.append("earned no tier for any task type")
    return found


def expired(cell: Cell, *, runtimes: Mapping[str, str]) -> str | None:
    """Why the cell's evaluation does not hold for these runtimes; None if it holds, or was never made.

    Args:
        cell: The cell with its evidence.
        runtimes: Runtime → version in use; a runtime that is not named is not judged.
    """
    entry = evaluated_on(cell)
    if entry is None or entry.runtime is None:
        return None
    if runtimes.get(entry.runtime, entry.runtime_version) == entry.runtime_version:
        return None
    return (
        f"evaluated on {entry.runtime} {entry.runtime_version}, "
        f"in use is {entry.runtime} {runtimes[entry.runtime]}"
    )


def _missing_steps(cell: Cell) -> list[str]:
    found: list[str] = []
    if cell.artifact is None:
        found.append("there is no artifact")
    if cell.state in ("failed", "unsupported", "expired"):
        found.append(f"it is {cell.state}" + (f": {cell.reason}" if cell.reason else ""))
    if cell.artifact is None:
        return found
    steps = {entry.state for entry in cell.evidence if entry.digest == cell.artifact}
    if "loads" not in steps and not reached(cell, state="loads"):
        found.append("it was never loaded")
    if cell.parity is None:
        found.append("its parity was never measured")
    elif not cell.parity.within:
        found.append(f"its parity is outside the bound: {cell.parity.reason}")
    if evaluated_on(cell) is None:
        found.append("no evaluation of this artifact names its runtime's version")
    return found


def _shortfall(result: TaskResult, *, own: int) -> str | None:
    if result.tier is not None and result.tier <= own:
        return None
    verdict = next((verdict for verdict in result.verdicts if verdict.tier == own), None)
    if verdict is None:
        return f"`{result.task_type}` was never judged against tier {own}, the place of its checkpoint"
    checkpoint_misses_floor = verdict.reference_accuracy < verdict.floor
    if checkpoint_misses_floor and verdict.lower_bound_points > -verdict.margin_points:
        return None
    return f"`{result.task_type}` does not hold tier {own}: {verdict.status}, {verdict.reason}"
