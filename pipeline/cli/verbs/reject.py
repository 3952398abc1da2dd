"""`rung reject`: reject cells."""

from __future__ import annotations

import typer

from pipeline.cli import context, output
from pipeline.cli.names import cell_names

ORDER = 60
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def reject(
    cell: list[str] = typer.Argument(
        metavar="CELL...", help="Ids, unambiguous parts or patterns", autocompletion=cell_names
    ),
    by: str = typer.Option(..., "--by", help="Who rejects"),
    reason: str = typer.Option(..., "--reason", help="Why"),
) -> None:
    """Reject cells. Their artifacts cannot be released until someone approves them."""
    board = context.board()
    ledger = context.ruling_ledger(board.database)
    with context.publishing_rulings(board.database):
        for each in board.cells_named(cell):
            ledger.reject(each.id, who=by, why=reason)
            output.note(f"rejected {each.id}")
