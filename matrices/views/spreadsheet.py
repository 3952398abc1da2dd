"""The matrix as CSV, one row for each cell, for a spreadsheet or a script.

Texts of the matrix come from people, compilers and other machines, and a spreadsheet evaluates a text that
begins like a formula. Such a text gets an apostrophe in front (OWASP, "CSV Injection").
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Final

from matrices.cells.cell import Cell, task_types
from matrices.cells.levels import evaluated_on, evidence_level
from matrices.cells.missing import missing_evidence
from matrices.releases.ruling import Ruling
from matrices.views.table import one_line

Value = str | int | float | None
_FORMULA: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")  # plain and full-width


def matrix_csv(cells: Iterable[Cell], *, rulings: Mapping[str, Ruling] | None = None) -> str:
    """The matrix as CSV (RFC 4180) with a line of heads; empty fields are what was not measured.

    Args:
        cells: In the order of the rows.
        rulings: Cell id → the latest ruling on its artifact.
    """
    listed = list(cells)
    tasks = task_types(listed)
    rows = [_row(cell, ruling=(rulings or {}).get(cell.id), tasks=tasks) for cell in listed]
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([plain(head) for head in (rows[0] if rows else ("cell",))])
    writer.writerows([plain(value) for value in row.values()] for row in rows)
    return text.getvalue()


def plain(value: Value) -> str | int | float:
    """A value as a spreadsheet shows it and never evaluates it."""
    match value:
        case None:
            return ""
        case str(text):
            line = one_line(text)
            return f"'{line}" if line.startswith(_FORMULA) else line
        case _:
            return value


def _row(cell: Cell, *, ruling: Ruling | None, tasks: tuple[str, ...]) -> dict[str, Value]:
    on, approval = evaluated_on(cell), ruling if ruling and cell.state == "approved" else None
    row: dict[str, Value] = {
        "cell": cell.id,
        "family": cell.family,
        "checkpoint": cell.checkpoint,
        "recipe": cell.recipe,
        "target": cell.target,
        "toolchain": cell.toolchain,
        "ladder_tier": cell.tier,
        "state": cell.state,
        "reason": cell.reason,
        "approved_by": approval.who if approval else None,
        "approved_why": approval.why if approval else None,
        "waiver": approval.waiver if approval else None,
        "evidence": evidence_level(cell),
        "chip": on.chip if on else None,
        "runtime": on.runtime if on else None,
        "runtime_version": on.runtime_version if on else None,
        "missing": "; ".join(missing_evidence(cell, tasks=tasks)),
        "size_bytes": cell.size_bytes,
        "decode_tokens_per_s": cell.speed.decode_tokens_per_s if cell.speed else None,
        "prefill_tokens_per_s": cell.speed.prefill_tokens_per_s if cell.speed else None,
        "kl_nats": cell.parity.kl if cell.parity else None,
        "greedy_agreement": cell.parity.greedy_agreement if cell.parity else None,
        "artifact": cell.artifact,
        "updated_at": cell.updated_at.isoformat(),
    }
    results = {result.task_type: result for result in cell.tasks}
    for task in tasks:
        result = results.get(task)
        row |= {
            f"{task} tier": result.tier if result else None,
            f"{task} accuracy": result.accuracy if result else None,
            f"{task} samples": result.samples if result else None,
        }
    return row
