"""Proxies: results of the same weights on another target, shown with a cell that was not evaluated itself.

Computed when the matrix is read and never stored, so that a proxy cannot outlive the results it comes from.
Two cells hold the same weights if the weights of their variants have the same digest. A proxy only says what
to expect, because another toolchain or another chip computes differently: it earns no tier, and an approval
based on it needs a waiver, as any approval without evidence does.
"""

from __future__ import annotations

from collections.abc import Iterable

from matrices.cells.cell import Cell, Evidence, TaskResult
from matrices.cells.levels import evaluated_on, evidence_level, rank
from matrices.cells.measurement import Measurement
from registry.value import Value


class Proxy(Value):
    """Task results of another cell with the same weights."""

    cell: str
    """Id of the cell that was evaluated."""
    target: str
    chip: str | None
    """The chip that it was evaluated on."""
    runtime: str | None
    runtime_version: str | None
    tasks: tuple[TaskResult, ...]

    @property
    def words(self) -> str:
        """Where the results come from, for people."""
        return f"evaluated by proxy: `{self.cell}`" + (f" on {self.chip}" if self.chip else "")

    def evidence(self, cell: Cell) -> Evidence:
        """The proxy as a step of a cell's evidence, for display only; it was measured on another artifact."""
        earned = ", ".join(f"{one.task_type} {one.accuracy:.3f}" for one in self.tasks)
        return Evidence(
            state="evaluated",
            digest=None,
            at=cell.updated_at,
            detail=f"{earned} (`{self.cell}`)",
            measurement=Measurement(
                runtime=self.runtime,
                runtime_version=self.runtime_version,
                chip=self.chip,
                via="proxy",
                at=cell.updated_at,
            ),
        )


def proxies(cells: Iterable[Cell]) -> dict[str, Proxy]:
    """Cell id → its proxy, for each cell with an artifact that was not evaluated itself."""
    listed = list(cells)
    sources: dict[str, Cell] = {}
    for cell in sorted(listed, key=lambda one: (-(rank(one.state) or 0), one.id)):
        if cell.variant is not None and _is_evaluated(cell):
            sources.setdefault(cell.variant.weights, cell)
    found: dict[str, Proxy] = {}
    for cell in listed:
        source = None if cell.variant is None else sources.get(cell.variant.weights)
        if source is None or cell.artifact is None or evaluated_on(cell) is not None:
            continue
        entry = evaluated_on(source)
        found[cell.id] = Proxy(
            cell=source.id,
            target=source.target,
            chip=entry.chip if entry else None,
            runtime=entry.runtime if entry else None,
            runtime_version=entry.runtime_version if entry else None,
            tasks=source.tasks,
        )
    return found


def _is_evaluated(cell: Cell) -> bool:
    return evidence_level(cell) in ("evaluated", "benchmarked") and cell.state in (
        "evaluated", "benchmarked", "approved",
    )  # fmt: skip
