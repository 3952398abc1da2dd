"""The matrix as one HTML file that needs nothing else: for a review, a ticket or a web server.

It has no script and loads nothing, and its own policy forbids both. Every text is escaped: names, reasons and
logs come from people, compilers and other machines.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from html import escape
from typing import Final

from matrices.cells.cell import Cell, TaskResult
from matrices.cells.levels import evaluated_on, evidence_level, state_in_words
from matrices.cells.missing import missing_evidence
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
    size,
    summary,
)

_STYLE: Final = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --good: #1a7f37; --bad: #b42318;
  --mid: #8a6100; --plain: #57606a; }
@media (prefers-color-scheme: dark) { :root { --good: #56d364; --bad: #ff7b72; --mid: #e3b341;
  --plain: #9da7b1; } }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { border: 1px solid var(--line); padding: .4rem .6rem; text-align: left; vertical-align: top; }
th { background: var(--soft); font-weight: 600; white-space: nowrap; }
td a { color: inherit; text-decoration: none; } td a:hover b { text-decoration: underline; }
.small { color: var(--plain); font-size: .85rem; } .number { text-align: right; white-space: nowrap; }
.approved, .pass { color: var(--good); }
.failed, .rejected, .withdrawn, .fail { color: var(--bad); } .expired, .hold { color: var(--mid); }
.tiers span { border: 1px solid var(--line); border-radius: .3rem; padding: 0 .3rem; white-space: nowrap; }
details { border: 1px solid var(--line); border-radius: .4rem; margin: .5rem 0; padding: .5rem .8rem; }
summary { cursor: pointer; overflow-wrap: anywhere; } details:has(:target) { outline: 2px solid var(--good); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: .6rem 0; }
dt { color: var(--plain); } dd { margin: 0; overflow-wrap: anywhere; }
code { font-size: .85rem; overflow-wrap: anywhere; }
"""
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def matrix_html(
    cells: Iterable[Cell], *, rulings: Mapping[str, Ruling] | None = None, at: datetime | None = None
) -> str:
    """The matrix as an HTML document: the table, then each cell with its evidence and why it is not better.

    Args:
        cells: In any order.
        rulings: Cell id → the latest ruling on its artifact.
        at: When it was made, for the reader; None: unsaid.
    """
    grid = lay_out(cells, rulings=rulings)
    families = sorted({cell.family for cell in grid.cells.values()})
    title = f"Compatibility matrix of {', '.join(families)}" if families else "Compatibility matrix"
    return "\n".join(_document(grid, title=title, at=at)) + "\n"


def _document(grid: TableGrid, *, title: str, at: datetime | None) -> Iterator[str]:
    yield from ("<!DOCTYPE html>", '<html lang="en">', "<head>", '<meta charset="utf-8">')
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield from (f"<title>{_text(title)}</title>", f"<style>{_STYLE}</style>", "</head>", "<body>")
    made = f", as of {at:%Y-%m-%d %H:%M}Z" if at else ""
    yield f"<h1>{_text(title)}</h1>"
    yield f'<p class="small">{_text(summary(grid.cells.values()))}{_text(made)}</p>'
    if grid.cells:
        yield from _table(grid)
        yield from _legend(grid)
        yield "<h2>Cells</h2>"
        for number, key in enumerate(_places(grid)):
            yield from _details(grid, grid.cells[key], number=number)
    yield from ("</body>", "</html>")


def _places(grid: TableGrid) -> list[tuple[RowKey, ColumnKey]]:
    """Rows and columns that hold a cell, in the order of reading."""
    return [(row, column) for row in grid.rows for column in grid.columns if (row, column) in grid.cells]


def _table(grid: TableGrid) -> Iterator[str]:
    numbers = {key: number for number, key in enumerate(_places(grid))}
    yield '<div class="scroll"><table>'
    heads = (f"<th>{_text(one.target)}<br>{_text(one.toolchain)}</th>" for one in grid.columns)
    yield f"<thead><tr><th>checkpoint</th><th>recipe</th>{''.join(heads)}</tr></thead><tbody>"
    for row in grid.rows:
        yield f"<tr><th>{_text(row.checkpoint)}</th><th>{_text(row.recipe)}</th>"
        for column in grid.columns:
            cell = grid.cells.get((row, column))
            yield "<td></td>" if cell is None else _cell(grid, cell, number=numbers[row, column])
        yield "</tr>"
    yield "</tbody></table></div>"


def _cell(grid: TableGrid, cell: Cell, *, number: int) -> str:
    facts = [size(cell.size_bytes), _speed(cell), grid.note(cell)]
    about = " · ".join(_text(fact) for fact in facts if fact)
    tiers = "".join(
        f'<span title="{_text(task)}">{_text(code)} {_text(tier)}</span> '
        for (task, code), tier in zip(grid.codes.items(), grid.tiers(cell), strict=True)
    )
    return (
        f'<td><a href="#cell-{number}"><b class="{cell.state}">{_text(grid.mark(cell))}</b></a>'
        f'<div class="small">{about}</div><div class="tiers small">{tiers}</div></td>'
    )


def _legend(grid: TableGrid) -> Iterator[str]:
    codes = ", ".join(f"{code} {task}" for task, code in grid.codes.items())
    yield f'<p class="small">Tiers earned: {_text(codes)}; 1 is the best tier, {NONE_EARNED} none earned, '
    yield f"{NOT_MEASURED} not measured; a star marks a waiver.</p>"
    if lines := measured_on(grid):
        yield '<ul class="small">'
        yield from (f"<li>{_text(line)}</li>" for line in lines)
        yield "</ul>"


def _details(grid: TableGrid, cell: Cell, *, number: int) -> Iterator[str]:
    yield f'<details><summary><b class="{cell.state}">{MARKS[cell.state]}</b> {_text(cell.id)} '
    # A browser opens what holds the target of a link.
    yield f'<span class="small">{_text(_why(grid, cell))}</span></summary><dl id="cell-{number}">'
    for name, value in _facts(grid, cell):
        yield f"<dt>{_text(name)}</dt><dd>{value}</dd>"
    yield "</dl>"
    if cell.tasks:
        yield '<div class="scroll"><table><thead><tr><th>task type</th><th>tier</th><th>accuracy</th>'
        yield "<th>samples</th><th>prompts</th><th>verdicts</th></tr></thead><tbody>"
        yield from (_task(result) for result in cell.tasks)
        yield "</tbody></table></div>"
    yield "</details>"


def _why(grid: TableGrid, cell: Cell) -> str:
    """The state, and the first reason why the cell is not approved."""
    lacking = [] if cell.state == "approved" else missing_evidence(cell, tasks=grid.codes)
    why = cell.reason or next(iter(lacking), "")
    return f"{cell.state}: {why}" if why else cell.state


def _facts(grid: TableGrid, cell: Cell) -> Iterator[tuple[str, str]]:
    """Names and values, the latter as HTML."""
    yield "state", _text(state_in_words(cell))
    if cell.reason:
        yield "why", _text(cell.reason)
    ruling = grid.rulings.get(cell.id)
    if ruling is not None:
        yield "ruling", _text(f"{ruling.verb} by {ruling.who}, {ruling.at:%Y-%m-%d %H:%M}Z: {ruling.why}")
    if waiver := grid.waiver(cell):
        yield "waiver", _text(waiver)
    missing = missing_evidence(cell, tasks=grid.codes) if cell.state != "approved" else []
    if missing:
        yield "missing for approval", "<br>".join(map(_text, missing))
    if level := evidence_level(cell):
        yield "evidence", _text(level + _measured(cell))
    if cell.artifact:
        yield "artifact", f"<code>{_text(cell.artifact)}</code> {_text(size(cell.size_bytes))}"
    if cell.parity:
        yield (
            "parity",
            _text(
                f"KL {cell.parity.kl:.2e} nats to the checkpoint, {cell.parity.greedy_agreement:.2%} of "
                f"{cell.parity.positions} likeliest tokens agree; {cell.parity.reason}"
            ),
        )
    if cell.speed:
        yield (
            "speed",
            _text(
                f"decode {cell.speed.decode_tokens_per_s:,.1f} tokens/s, prefill "
                f"{cell.speed.prefill_tokens_per_s:,.1f} tokens/s, {cell.speed.threads} threads"
            ),
        )
    proxy = grid.proxies.get(cell.id)
    if proxy is not None:
        yield "elsewhere", _text(proxy.words)


def _task(result: TaskResult) -> str:
    verdicts = "<br>".join(
        f'<span class="{verdict.status}">tier {verdict.tier} {verdict.status}</span>: {_text(verdict.reason)}'
        for verdict in sorted(result.verdicts, key=lambda one: one.tier)
    )
    tier = NONE_EARNED if result.tier is None else str(result.tier)
    return (
        f'<tr><td>{_text(result.task_type)}</td><td class="number">{tier}</td>'
        f'<td class="number">{result.accuracy:.3f}</td>'
        f'<td class="number">{result.samples:,} of {result.available:,}</td>'
        f"<td>{_text(result.prompting.words)}</td><td>{verdicts}</td></tr>"
    )


def _measured(cell: Cell) -> str:
    on = evaluated_on(cell)
    if on is None or not on.chip:
        return ""
    driver = f", driver {on.driver}" if on.driver else ""
    return f" on {on.chip} with {on.runtime} {on.runtime_version}{driver}"


def _speed(cell: Cell) -> str:
    return f"{cell.speed.decode_tokens_per_s:,.1f} tokens/s" if cell.speed else ""


def _text(text: str) -> str:
    """A text as HTML: one line, without control characters, nothing of it markup."""
    return escape(one_line(text), quote=True)
