"""Missing evidence: what a cell lacks to be approved without a waiver.

- A cell may be approved without a waiver if its artifact loaded, its parity is within the recipe's bound,
  it was evaluated on every task type of the ladder, and for each of them it **keeps its checkpoint's
  quality**: it passes the bar of its checkpoint's tier, or a better one. If the checkpoint itself misses the
  floor of its tier, being non-inferior to the checkpoint is enough; the cell then earns no tier for that task
  type.
- It must earn a tier for at least one task type.
- No result of it may contradict another one since a person last approved it.
- A waiver lets a cell be approved with evidence missing. It never grants a tier.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from matrices.cells.cell import Cell, TaskResult
from matrices.cells.levels import evaluated_on, own_steps, reached, rehearsed_by

_CONTRADICTION: Final = "contradiction: "


def missing_evidence(cell: Cell, *, tasks: Iterable[str]) -> list[str]:
    """What a cell lacks for an approval without a waiver, one sentence each.

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
    found += open_contradictions(cell)
    if results and all(result.tier is None for result in results.values()):
        found.append("earned no tier for any task type")
    return found


def contradiction(detail: str) -> str:
    """The detail of a step of evidence that records a contradiction."""
    return f"{_CONTRADICTION}{detail}"


def open_contradictions(cell: Cell) -> list[str]:
    """Results of the cell's artifact that contradict others, and that no approval has taken into account."""
    found: list[str] = []
    for entry in own_steps(cell):
        if entry.state == "approved":
            found = []
        elif entry.detail.startswith(_CONTRADICTION):
            found.append(entry.detail)
    return found


def _missing_steps(cell: Cell) -> list[str]:
    found: list[str] = []
    if cell.artifact is None:
        found.append("there is no artifact")
    if cell.state in ("failed", "unsupported", "expired"):
        found.append(f"it is {cell.state}" + (f": {cell.reason}" if cell.reason else ""))
    if cell.artifact is None:
        return found
    steps = {entry.state for entry in own_steps(cell)}
    if cell.state == "portable":
        found.append("it was never compiled: only its node can (`rung node-compile`)")
    if "loads" not in steps and not reached(cell, state="loads"):
        found.append("it was never loaded")
    if cell.parity is None:
        found.append("its parity was never measured" + _in_emulation(cell))
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


def _in_emulation(cell: Cell) -> str:
    emulated = rehearsed_by(cell)
    if emulated is None or cell.rehearsal is None:
        return ""
    return (
        f" on its chip ({'close' if cell.rehearsal.within else 'not close'} in emulation by {emulated.chip})"
    )
