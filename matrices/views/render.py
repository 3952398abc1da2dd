"""Draw the matrix: with rich for a terminal, and as Markdown for a review or a wiki."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from matrices.cells.cell import Cell
from matrices.chips.throughput import penalties, throughputs
from matrices.releases.ruling import Ruling
from matrices.views.table import (
    MARKS,
    NONE_EARNED,
    NOT_MEASURED,
    ColumnKey,
    RowKey,
    TableGrid,
    lay_out,
    measured_on,
    one_line,
    reasons,
    size,
    summary,
)

_ROW_HEAD: Final = 44
"""Columns that checkpoint and recipe may take on a terminal."""
_STATE_STYLE: Final[Mapping[str, str]] = {
    "approved": "bold green", "evaluated": "cyan", "benchmarked": "cyan", "failed": "bold red",
    "rejected": "red", "withdrawn": "red", "expired": "yellow", "unsupported": "dim", "declared": "dim",
    "portable": "dim",
}  # fmt: skip
_TIER_STYLE: Final[Mapping[str, str]] = {"1": "bold green", "2": "cyan", "3": "yellow", NOT_MEASURED: "dim"}


def matrix_table(
    cells: Iterable[Cell],
    *,
    width: int = 120,
    rulings: Mapping[str, Ruling] | None = None,
    tasks: Iterable[str] = (),
) -> RenderableType:
    """The matrix for a terminal: the state of each cell, earned tiers, and why cells are off the ladder.

    Args:
        cells: In any order.
        width: Columns of the terminal; if the targets and toolchains do not fit, more tables follow.
        rulings: Cell id → the latest ruling on its artifact; shows waivers.
        tasks: Task types of the ladder.
    """
    grid = lay_out(cells, rulings=rulings, tasks=tasks)
    if not grid.cells:
        return Text("the matrix is empty: `rung build LADDER` fills it")
    parts: list[RenderableType] = [Text(summary(grid.cells.values()), style="bold")]
    fit = max(1, (width - _ROW_HEAD) // (_cell_width(grid) + 3))
    for start in range(0, len(grid.columns), fit):
        parts.append(_table(grid, grid.columns[start : start + fit]))
    parts += _legend(grid)
    return Group(*parts)


def throughput_table(cells: Iterable[Cell]) -> RenderableType | None:
    """Throughput against rooflines and the penalty of each target; None where nothing was timed."""
    listed = list(cells)
    found = throughputs(listed)
    if not found:
        return None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head in ("cell", "chip", "decode tokens/s", "roofline", "prefill tokens/s", "roofline"):
        table.add_column(Text(head), overflow="fold", justify="left" if head in ("cell", "chip") else "right")
    for one in found:
        table.add_row(
            Text(one.cell), Text(one.chip or ""), f"{one.decode_tokens_per_s:,.1f}", _share(one.decode_share),
            f"{one.prefill_tokens_per_s:,.1f}", _share(one.prefill_share),
        )  # fmt: skip
    return Group(table, *(Text(line) for line in penalty_lines(listed)))


def penalty_lines(cells: Iterable[Cell]) -> list[str]:
    """The penalty of each target, one line each."""
    lines = []
    for one in penalties(cells):
        match one.status:
            case "measured":
                text = f"decode {_share(one.decode)}, prefill {_share(one.prefill)} {one.why}"
                text += f" ({one.variants} variants)"
            case "reference":
                text = "is the reference"
            case "unknown":
                text = f"unknown: {one.why}"
        lines.append(f"penalty of {one.target}: {text}")
    return lines


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0%}"


def matrix_markdown(
    cells: Iterable[Cell], *, rulings: Mapping[str, Ruling] | None = None, tasks: Iterable[str] = ()
) -> str:
    """The matrix as a Markdown table with its legend."""
    listed = list(cells)
    grid = lay_out(listed, rulings=rulings, tasks=tasks)
    columns = [f"{column.target}<br>{column.toolchain}" for column in grid.columns]
    lines = [summary(grid.cells.values()), ""]
    lines.append("| " + " | ".join(["checkpoint", "recipe", *columns]) + " |")
    lines.append("|" + "---|" * (len(columns) + 2))
    for row in grid.rows:
        texts = [_markdown_cell(grid, grid.cells.get((row, column))) for column in grid.columns]
        lines.append("| " + " | ".join([row.checkpoint, row.recipe, *texts]) + " |")
    lines += ["", _codes(grid), *(f"- {line}" for line in measured_on(grid))]
    lines += [f"- {sentence} ({_named(held)})" for sentence, held in reasons(grid)]
    lines += _throughput_markdown(listed)
    return "\n".join(lines) + "\n"


def _throughput_markdown(cells: list[Cell]) -> list[str]:
    found = throughputs(cells)
    if not found:
        return []
    lines = ["", "| cell | chip | decode tokens/s | of roofline | prefill tokens/s | of roofline |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [
        f"| `{one.cell}` | {one.chip or ''} | {one.decode_tokens_per_s:,.1f} | {_share(one.decode_share)} "
        f"| {one.prefill_tokens_per_s:,.1f} | {_share(one.prefill_share)} |"
        for one in found
    ]
    return [*lines, "", *(f"- {line}" for line in penalty_lines(cells))]


def _table(grid: TableGrid, columns: Iterable[ColumnKey]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text("checkpoint"), max_width=28, overflow="fold")
    table.add_column(Text("recipe"), max_width=13, overflow="fold")
    shown = tuple(columns)
    codes = " ".join(f"{code:>2}" for code in grid.codes.values())
    for column in shown:
        head = Text(f"{column.target}\n{column.toolchain}\n{codes}")
        table.add_column(head, min_width=_cell_width(grid), overflow="fold")
    previous: str | None = None
    for number, row in enumerate(grid.rows):
        name = Text(row.checkpoint) if row.checkpoint != previous else Text("")
        ends = number + 1 == len(grid.rows) or grid.rows[number + 1].checkpoint != row.checkpoint
        texts = [_cell_text(grid, row, column) for column in shown]
        table.add_row(name, Text(row.recipe), *texts, end_section=ends)
        previous = row.checkpoint
    return table


def _cell_text(grid: TableGrid, row: RowKey, column: ColumnKey) -> Text:
    cell = grid.cells.get((row, column))
    if cell is None:
        return Text("")
    text = Text(grid.mark(cell), style=_STATE_STYLE.get(cell.state, ""))
    if cell.size_bytes is not None:
        text.append(f"  {size(cell.size_bytes)}", style="not bold dim")
    if note := grid.note(cell):
        text.append(f"\n{note}", style="not bold yellow")
    if not cell.tasks and (elsewhere := grid.proxy_tiers(cell)):
        text.append("\n" + _in_brackets(grid, elsewhere), style="not bold dim")
    if cell.tasks:
        text.append("\n")
        for number, (tier, code) in enumerate(zip(grid.tiers(cell), grid.codes.values(), strict=True)):
            gap = " " if number else ""
            style = _TIER_STYLE.get(tier, "red" if tier == NONE_EARNED else "")
            text.append(gap + f"{tier:>{max(2, len(code))}}", style=f"not dim {style}".strip())
    return text


def _legend(grid: TableGrid) -> list[RenderableType]:
    used = {cell.state for cell in grid.cells.values()}
    marks = "  ".join(f"{mark} {state}" for state, mark in MARKS.items() if state in used)
    parts: list[RenderableType] = [Text(_codes(grid), style="dim"), Text(marks, style="dim")]
    parts += [Text(line, style="dim") for line in measured_on(grid)]
    for sentence, held in reasons(grid):
        parts.append(Text(f"{MARKS[held[0].state]} {sentence} ({_named(held)})"))
    return parts


def _in_brackets(grid: TableGrid, tiers: Iterable[str]) -> str:
    """Tiers under their codes, in brackets: not this cell's own."""
    widths = [max(2, len(code)) for code in grid.codes.values()]
    texts = [f"{tier:>{width}}" for tier, width in zip(tiers, widths, strict=True)]
    return "(" + " ".join(texts)[1:] + ")"


def _codes(grid: TableGrid) -> str:
    named = ", ".join(f"{code} {task}" for task, code in grid.codes.items())
    key = f"1 is the best tier, {NONE_EARNED} none earned, {NOT_MEASURED} not measured"
    if grid.proxies:
        key += ", in brackets by proxy: the same weights on another target"
    return f"tiers earned: {named}; {key}" if named else "nothing was evaluated yet"


def _named(cells: list[Cell]) -> str:
    more = f" and {len(cells) - 1} more" if len(cells) > 1 else ""
    return f"{cells[0].id}{more}"


def _markdown_cell(grid: TableGrid, cell: Cell | None) -> str:
    if cell is None:
        return ""
    tiers = ", ".join(
        f"{code} {tier}" for code, tier in zip(grid.codes.values(), grid.tiers(cell), strict=True)
    )
    elsewhere = ", ".join(
        f"{code} ({tier})" for code, tier in zip(grid.codes.values(), grid.proxy_tiers(cell), strict=False)
    )
    parts = [grid.mark(cell), size(cell.size_bytes), grid.note(cell), tiers if cell.tasks else elsewhere]
    return one_line("<br>".join(part for part in parts if part)).replace("|", "\\|").replace("*", "\\*")


def _cell_width(grid: TableGrid) -> int:
    codes = sum(max(2, len(code)) + 1 for code in grid.codes.values())
    return max(22, codes)
