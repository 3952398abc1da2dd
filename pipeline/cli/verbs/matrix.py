"""`rung matrix`: show, explain, compare and export the compatibility matrix."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, assert_never

import typer
from rich.console import Console

from matrices.views.cell_page import cell_json, explain_cell
from matrices.views.diff import diff_lines, diff_markdown
from matrices.views.render import matrix_markdown, matrix_table, throughput_table
from matrices.views.table import matrix_json
from pipeline.cli import context, output
from pipeline.cli.names import cell_names, checkpoint_names, target_names
from registry.digest import canonical_json
from registry.errors import ConfigurationError, NotFoundError

if TYPE_CHECKING:
    from matrices.views.board import MatrixPage

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
    checkpoint: str | None = typer.Option(None, help="Only NAME/VERSION", autocompletion=checkpoint_names),
    recipe: str | None = typer.Option(None, help="Only this recipe"),
    target: str | None = typer.Option(None, help="Only this target", autocompletion=target_names),
    toolchain: str | None = typer.Option(None, help="Only this toolchain"),
    state: str | None = typer.Option(None, help="Only cells in this state"),
    markdown: bool = typer.Option(False, "--markdown", help="Print Markdown"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Show the matrix: rows are checkpoints and recipes, columns targets and toolchains."""
    page = context.board().matrix(
        family=family,
        checkpoint=checkpoint,
        recipe=recipe,
        target=target,
        toolchain=toolchain,
        state=state,
    )
    if as_json:
        output.data(matrix_json(page.cells, rulings=page.rulings))
    elif markdown:
        output.line(matrix_markdown(page.cells, rulings=page.rulings).rstrip())
    elif not page.cells:
        output.note("no cells yet: run `rung build LADDER`")
    else:
        terminal = Console()
        width = terminal.width if terminal.is_terminal else PLAIN_WIDTH
        output.rich(matrix_table(page.cells, width=width, rulings=page.rulings))
        if (throughput := throughput_table(page.cells)) is not None:
            output.rich(throughput)


@app.command()
def explain(
    cell: str = typer.Argument(
        help="Id, or unambiguous parts of it: `mid:w4:tvm`", autocompletion=cell_names
    ),
    log: bool = typer.Option(False, "--log", help="Print the compiler's log"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Explain one cell: evidence, verdicts, rulings, and what is missing for approval."""
    page = context.board().cell_page(cell)
    if log:
        if page.cell.log is None:
            raise NotFoundError(f"`{page.cell.id}` has no log", hint="only lowered and failed cells have one")
        store = context.this_workspace().store
        output.line(store.read_bytes(page.cell.log).decode("utf-8", "replace"))
    elif as_json:
        output.data(cell_json(page))
    else:
        for line in explain_cell(page):
            output.line(line)


@app.command()
def diff(
    before: str = typer.Argument(help="A checkpoint's NAME/VERSION, or a release"),
    after: str = typer.Argument(help="Another one of the same kind"),
    markdown: bool = typer.Option(False, "--markdown", help="Print Markdown"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Compare two checkpoint versions or two releases, cell by cell."""
    found = context.board().compare(before, after)
    if as_json:
        output.data(found)
    elif markdown:
        output.line(diff_markdown(found).rstrip())
    else:
        for line in diff_lines(found):
            output.line(line)


@app.command()
def track(as_json: bool = typer.Option(False, "--json", help="Print JSON")) -> None:
    """Show the cells in MLflow as runs, with scores, sizes, speeds and lineage, to compare them there.

    Builds that ran something and new releases do so by themselves.
    """
    from pipeline.workspace.track import track as bring_up_to_date

    workspace = context.this_workspace()
    tracked = bring_up_to_date(workspace, database=context.database(workspace))
    if as_json:
        output.data(asdict(tracked))
    else:
        output.line(f"{tracked.runs} runs written, {tracked.cells} cells: {', '.join(tracked.experiments)}")


class ExportForm(Enum):
    """How the matrix is written to a file."""

    html = "html"
    csv = "csv"
    json = "json"
    md = "md"


@app.command()
def export(
    out: Path | None = typer.Argument(
        None, metavar="[FILE]", help="`.html`, `.csv`, `.json` or `.md`; none: standard output"
    ),
    form: ExportForm | None = typer.Option(None, "--format", help="Instead of by the ending of FILE"),
    family: str | None = typer.Option(None, help="Only this family"),
) -> None:
    """Write the matrix to a file, atomically: one HTML page, a table for a spreadsheet, JSON or Markdown."""
    from registry.atomic import write_atomically

    chosen = form or _form_of(out)
    page = context.board().matrix(family=family)
    text = _written(page, form=chosen)
    if out is None:
        output.line(text.rstrip("\n"))
        return
    write_atomically(out, text.encode())
    output.note(f"{len(page.cells)} cells written to {out}")


def _form_of(out: Path | None) -> ExportForm:
    ending = "" if out is None else out.suffix.removeprefix(".")
    for form in ExportForm:
        if form.value == ending:
            return form
    endings = ", ".join(f"`.{form.value}`" for form in ExportForm)
    if out is None:
        raise ConfigurationError("neither a file nor a form is given", hint="add a file, or `--format html`")
    raise ConfigurationError(
        f"`{out}` has none of the endings {endings}", hint="give it one of them, or add `--format`"
    )


def _written(page: MatrixPage, *, form: ExportForm) -> str:
    match form:
        case ExportForm.html:
            from matrices.views.web_page import matrix_html

            return matrix_html(page.cells, rulings=page.rulings, at=datetime.now(UTC))
        case ExportForm.csv:
            from matrices.views.spreadsheet import matrix_csv

            return matrix_csv(page.cells, rulings=page.rulings)
        case ExportForm.json:
            return canonical_json(matrix_json(page.cells, rulings=page.rulings)).decode()
        case ExportForm.md:
            return matrix_markdown(page.cells, rulings=page.rulings)
        case _:
            assert_never(form)
