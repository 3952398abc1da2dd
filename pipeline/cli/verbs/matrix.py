"""`rung matrix`: show, explain, compare and export the compatibility matrix."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.console import Console

from matrices.cells.cell import Cell
from matrices.cells.proxy import proxies
from matrices.chips.throughput import cell_throughput
from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.views.cell_page import cell_json, explain_cell
from matrices.views.diff import diff_cells, diff_lines, diff_markdown, diff_releases
from matrices.views.render import matrix_markdown, matrix_table, throughput_table
from matrices.views.table import matrix_json
from pipeline.cli import context, output
from registry.errors import ConfigurationError, NotFoundError

ORDER = 40
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)

PLAIN_WIDTH = 160
"""Columns of a table that is not printed on a terminal."""


@app.callback()
def matrix() -> None:
    """Show, explain, compare and export the compatibility matrix."""


@app.command()
def show(
    family: str | None = typer.Option(None, help="Only this family"),
    checkpoint: str | None = typer.Option(None, help="Only NAME/VERSION"),
    recipe: str | None = typer.Option(None, help="Only this recipe"),
    target: str | None = typer.Option(None, help="Only this target"),
    toolchain: str | None = typer.Option(None, help="Only this toolchain"),
    state: str | None = typer.Option(None, help="Only cells in this state"),
    markdown: bool = typer.Option(False, "--markdown", help="Print Markdown"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Show the matrix: rows are checkpoints and recipes, columns targets and toolchains."""
    database = context.database(context.workspace())
    chosen = query.cells(
        database,
        family=family,
        checkpoint=checkpoint,
        recipe=recipe,
        target=target,
        toolchain=toolchain,
        state=state,
    )
    rulings = query.rulings(database, family=family)
    if as_json:
        output.data(matrix_json(chosen, rulings=rulings))
    elif markdown:
        output.line(matrix_markdown(chosen, rulings=rulings).rstrip())
    elif not chosen:
        output.note("no cells (`rung build LADDER` makes them)")
    else:
        terminal = Console()
        width = terminal.width if terminal.is_terminal else PLAIN_WIDTH
        output.rich(matrix_table(chosen, width=width, rulings=rulings))
        if (throughput := throughput_table(chosen)) is not None:
            output.rich(throughput)


@app.command()
def explain(
    cell: str = typer.Argument(help="Id, or unambiguous parts of it: `mid:w4:tvm`"),
    log: bool = typer.Option(False, "--log", help="Print the compiler's log"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Say all that is known of one cell: evidence, verdicts, rulings, and what is missing for approval."""
    place = context.workspace()
    database = context.database(place)
    found = query.find_cell(database, cell)
    if log:
        if found.log is None:
            raise NotFoundError(f"`{found.id}` has no log", hint="only lowered and failed cells have one")
        output.line(place.store.read_bytes(found.log).decode("utf-8", "replace"))
        return
    history = query.history(database, found.id)
    tasks = _tasks(database, found.family)
    releases = query.releases_with(database, cell=found.id)
    proxy = proxies(query.cells(database, family=found.family)).get(found.id)
    throughput = cell_throughput(found)
    if as_json:
        told = cell_json(
            found, history=history, tasks=tasks, releases=releases, proxy=proxy, throughput=throughput
        )
        output.data(told)
        return
    lines = explain_cell(
        found, history=history, tasks=tasks, releases=releases, proxy=proxy, throughput=throughput
    )
    for line in lines:
        output.line(line)


@app.command()
def diff(
    before: str = typer.Argument(help="A checkpoint's NAME/VERSION, or a release"),
    after: str = typer.Argument(help="Another one of the same kind"),
    markdown: bool = typer.Option(False, "--markdown", help="Print Markdown"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Compare two checkpoint versions or two releases, cell by cell."""
    database = context.database(context.workspace())
    if ("/" in before) != ("/" in after):
        raise ConfigurationError(
            f"`{before}` and `{after}` are not of one kind",
            hint="give two checkpoint versions or two releases",
        )
    if "/" in before:
        found = diff_cells(_cells_of(database, before), _cells_of(database, after), names=(before, after))
    else:
        found = diff_releases(query.release(database, before), query.release(database, after))
    if as_json:
        output.data(found)
    elif markdown:
        output.line(diff_markdown(found).rstrip())
    else:
        for line in diff_lines(found):
            output.line(line)


@app.command()
def export(
    out: Path = typer.Argument(metavar="FILE", help="`.json` or `.md`"),
    family: str | None = typer.Option(None, help="Only this family"),
) -> None:
    """Write the matrix to a file, whole or not at all."""
    from registry.atomic import write_atomically
    from registry.digest import canonical_json

    database = context.database(context.workspace())
    chosen, rulings = query.cells(database, family=family), query.rulings(database, family=family)
    match out.suffix:
        case ".json":
            text = canonical_json(matrix_json(chosen, rulings=rulings))
        case ".md":
            text = matrix_markdown(chosen, rulings=rulings).encode()
        case _:
            raise ConfigurationError(
                f"`{out}` is neither `.json` nor `.md`", hint="give a name with one of them"
            )
    write_atomically(out, text)
    output.note(f"{len(chosen)} cells written to {out}")


def _cells_of(database: Database, checkpoint: str) -> list[Cell]:
    found = query.cells(database, checkpoint=checkpoint)
    if not found:
        raise NotFoundError(
            f"no cells of checkpoint `{checkpoint}`", hint="`rung matrix show` lists what there is"
        )
    return found


def _tasks(database: Database, family: str) -> list[str]:
    return sorted(
        {result.task_type for cell in query.cells(database, family=family) for result in cell.tasks}
    )
