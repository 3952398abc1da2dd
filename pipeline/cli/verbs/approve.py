"""`rung approve`: approve cells for release."""

from __future__ import annotations

import typer

from matrices.cells.cell import Cell
from pipeline.cli import context, output
from pipeline.cli.names import cell_names
from pipeline.workspace.locks import writing
from registry.errors import ConfigurationError, RefusedError
from registry.store import Store

ORDER = 50
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def approve(
    cell: list[str] = typer.Argument(
        None,
        metavar="[CELL]...",
        help="Ids, unambiguous parts of ids (`mid:w4:tvm`) or patterns",
        autocompletion=cell_names,
    ),
    by: str = typer.Option(..., "--by", help="Who approves"),
    reason: str = typer.Option(..., "--reason", help="Why"),
    waive: str | None = typer.Option(
        None, "--waive", help="Approve with evidence missing; TEXT says why and is recorded"
    ),
    passing: bool = typer.Option(False, "--passing", help="All cells with enough evidence, of --family"),
    family: str | None = typer.Option(None, help="With --passing: only this family"),
    as_json: bool = typer.Option(False, "--json", help="Print the approvals as JSON"),
) -> None:
    """Approve cells for release. Refused (exit 8) if evidence is missing, unless waived.

    A cell that says more than its scorecards show was edited outside Rung (exit 3).
    """
    if passing == bool(cell):
        raise ConfigurationError("give cells, or `--passing`, not both", hint="see `rung approve --help`")
    board = context.board()
    ledger = context.ruling_ledger(board.database)
    workspace = context.this_workspace()
    chosen = board.approvable(family) if passing else board.cells_named(cell)
    context.check_results(chosen)
    approvals, refusals = {}, []
    # What is approved now is not removed at the same time.
    with writing(workspace), context.publishing_rulings(board.database):
        for each in chosen:
            try:
                _check_stored(each, workspace.store)
                approvals[each.id] = ledger.approve(each.id, who=by, why=reason, waiver=waive)
                output.note(f"approved {each.id}")
            except RefusedError as refusal:
                refusals.append(refusal)
                output.error(refusal)
    if as_json:
        output.data(approvals)
    if refusals:
        raise typer.Exit(RefusedError.exit_code)


def _check_stored(cell: Cell, store: Store) -> None:
    if cell.artifact is not None and not store.has_artifact(cell.artifact):
        raise RefusedError(
            f"`{cell.id}`: the files of its artifact are not in the store any more",
            hint="build it again: `rung build LADDER`",
        )
