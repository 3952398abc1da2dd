"""Lay out the matrix as a table: its rows and columns, and the text in each cell.

Pure. Rows are checkpoint × recipe, columns target × toolchain. `matrices/views/render.py` draws it.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from matrices.cells.cell import LADDER, Cell, Evidence, State, task_types
from matrices.cells.levels import earned_tiers, evaluated_on, evidence_level, rehearsed_by
from matrices.cells.measurement import Measurement
from matrices.cells.missing import missing_evidence
from matrices.cells.proxy import Proxy, proxies
from matrices.chips.throughput import throughput_json
from matrices.releases.ruling import Ruling

MARKS: Final[Mapping[State, str]] = {
    "declared": "○", "portable": "◌", "built": "◔", "loads": "◑", "close": "◕", "evaluated": "●",
    "benchmarked": "●", "approved": "✓", "failed": "✗", "unsupported": "∅", "expired": "⌛",
    "rejected": "⊘", "withdrawn": "↩",
}  # fmt: skip
NONE_EARNED: Final = "–"
NOT_MEASURED: Final = "·"
WAIVED: Final = "*"
_COLOUR: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")  # ECMA-48 control sequences


@dataclass(frozen=True, slots=True, order=True)
class RowKey:
    """A row of the grid."""

    tier: int
    checkpoint: str
    recipe: str


@dataclass(frozen=True, slots=True, order=True)
class ColumnKey:
    """A column of the grid."""

    target: str
    toolchain: str


@dataclass(frozen=True, slots=True)
class TableGrid:
    """The cells by row and column."""

    rows: tuple[RowKey, ...]
    columns: tuple[ColumnKey, ...]
    cells: Mapping[tuple[RowKey, ColumnKey], Cell]
    codes: Mapping[str, str]
    """Task type → its short code."""
    rulings: Mapping[str, Ruling]
    """Cell id → the latest ruling on its artifact."""
    proxies: Mapping[str, Proxy]
    """Cell id → results of the same weights on another target."""

    def proxy_tiers(self, cell: Cell) -> tuple[str, ...]:
        """Tiers that the same weights earned elsewhere, in the order of the codes; empty without a proxy."""
        proxy = self.proxies.get(cell.id)
        if proxy is None:
            return ()
        earned = {result.task_type: result.tier for result in proxy.tasks}
        return tuple(_tier_text(earned, task) for task in self.codes)

    def note(self, cell: Cell) -> str:
        """What an emulator showed, or how little evidence an approval is based on; may be empty."""
        level = evidence_level(cell)
        if cell.state == "approved" and level not in ("evaluated", "benchmarked"):
            return f"evidence: {level}"
        if cell.variant is not None and (left := len(cell.variant.left_in_float)):
            return f"{left} in float"
        if cell.rehearsal is None or rehearsed_by(cell) is None or evaluated_on(cell) is not None:
            return ""
        return "close in emulation" if cell.rehearsal.within else "NOT close in emulation"

    def tiers(self, cell: Cell) -> tuple[str, ...]:
        """One character or number per task type, in the order of the codes."""
        earned = earned_tiers(cell)
        return tuple(_tier_text(earned, task) for task in self.codes)

    def waiver(self, cell: Cell) -> str | None:
        """Why missing evidence was accepted for an approved cell, where it was."""
        ruling = self.rulings.get(cell.id)
        return ruling.waiver if ruling and cell.state == "approved" else None

    def mark(self, cell: Cell) -> str:
        """Symbol and name of the state, with a star if there is a waiver."""
        return MARKS[cell.state] + " " + cell.state + (WAIVED if self.waiver(cell) else "")


def lay_out(
    cells: Iterable[Cell], *, rulings: Mapping[str, Ruling] | None = None, tasks: Iterable[str] = ()
) -> TableGrid:
    """The grid of cells.

    Args:
        cells: In any order.
        rulings: Cell id → the latest ruling on its artifact.
        tasks: Task types to show besides those that were measured.
    """
    listed = list(cells)
    tiers: dict[str, int] = {}
    for cell in listed:  # a checkpoint that moved within the ladder still gets only one row
        tiers[cell.checkpoint] = min(cell.tier, tiers.get(cell.checkpoint, cell.tier))
    placed = {
        (
            RowKey(tiers[cell.checkpoint], cell.checkpoint, cell.recipe),
            ColumnKey(cell.target, cell.toolchain),
        ): cell
        for cell in listed
    }
    measured = task_types(placed.values())
    return TableGrid(
        rows=tuple(sorted({row for row, _ in placed})),
        columns=tuple(sorted({column for _, column in placed})),
        cells=placed,
        codes=task_codes({*tasks, *measured}),
        rulings=rulings or {},
        proxies=proxies(placed.values()),
    )


def _tier_text(earned: Mapping[str, int | None], task: str) -> str:
    if task not in earned:
        return NOT_MEASURED
    return NONE_EARNED if earned[task] is None else str(earned[task])


def task_codes(tasks: Iterable[str]) -> dict[str, str]:
    """Task type → a unique short code: its initials, else the first letter and a later one."""
    codes: dict[str, str] = {}
    for task in sorted(tasks):
        words = [word for word in task.replace("_", "-").replace(" ", "-").split("-") if word]
        choices = ["".join(word[0] for word in words)[:3]] if len(words) > 1 else []
        whole = "".join(words)
        choices += [whole[0] + letter for letter in whole[1:]] if whole else []
        choices += [f"t{number}" for number in range(1, len(codes) + 2)]
        codes[task] = next(code for code in choices if code not in codes.values())
    return codes


def measured_on(grid: TableGrid) -> list[str]:
    """Where the cells of each column were measured: chip, runtime and driver, each column once."""
    found: dict[str, dict[str, None]] = {}
    for (_, column), cell in sorted(grid.cells.items()):
        entry = evaluated_on(cell)
        if entry is not None and entry.chip:
            driver = f", driver {entry.driver}" if entry.driver else ""
            where = f"{entry.chip} with {entry.runtime} {entry.runtime_version}{driver}"
            found.setdefault(f"{column.target} {column.toolchain}", {})[where] = None
    return [f"{column} was measured on {', '.join(where)}" for column, where in sorted(found.items())]


def summary(cells: Iterable[Cell]) -> str:
    """How many cells are in which state."""
    states = Counter(cell.state for cell in cells)
    off_ladder = tuple(state for state in MARKS if state not in LADDER)
    counted = ", ".join(f"{states[s]} {s}" for s in (*reversed(LADDER), *off_ladder) if states[s])
    total = sum(states.values())
    return f"{total} cell{'' if total == 1 else 's'}" + (f": {counted}" if counted else "")


def reasons(grid: TableGrid) -> list[tuple[str, list[Cell]]]:
    """Why cells are off the ladder or have a waiver: each sentence once, with the cells it applies to."""
    found: dict[str, list[Cell]] = {}
    for cell in grid.cells.values():
        if waiver := grid.waiver(cell):
            found.setdefault(f"waiver: {one_line(waiver)}", []).append(cell)
        elif cell.reason:
            found.setdefault(f"{cell.state}: {one_line(cell.reason)}", []).append(cell)
    return sorted(found.items())


def matrix_json(
    cells: Iterable[Cell], *, rulings: Mapping[str, Ruling] | None = None, tasks: Iterable[str] = ()
) -> dict[str, Any]:  # Any: JSON
    """The matrix as plain data: every cell in full, with its earned tiers and what it lacks for approval."""
    listed = list(cells)
    ladder = sorted({*tasks, *task_types(listed)})
    known, elsewhere = rulings or {}, proxies(listed)
    return throughput_json(listed) | {
        "tasks": ladder,
        "cells": [
            cell.model_dump(mode="json")
            | {
                "earned": earned_tiers(cell),
                "missing": missing_evidence(cell, tasks=ladder),
                "level": evidence_level(cell),
                "evidence": [evidence_json(entry) for entry in cell.evidence],
                "proxy": elsewhere[cell.id].model_dump(mode="json") if cell.id in elsewhere else None,
                "ruling": known[cell.id].model_dump(mode="json") if cell.id in known else None,
            }
            for cell in listed
        ],
    }


def evidence_json(entry: Evidence) -> dict[str, Any]:  # Any: JSON
    """A step of evidence as plain data, with the fields of its measurement inline."""
    on = entry.measurement or Measurement(at=entry.at)
    return on.model_dump(mode="json") | entry.model_dump(mode="json", exclude={"measurement"})


def size(size_bytes: int | None) -> str:
    """A size for people, in decimal units."""
    if size_bytes is None:
        return ""
    value = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def one_line(text: str) -> str:
    """The text without line breaks, colours and control characters, which compilers print."""
    plain = " ".join(_COLOUR.sub("", text).split())
    return "".join(char for char in plain if not unicodedata.category(char).startswith("C"))
