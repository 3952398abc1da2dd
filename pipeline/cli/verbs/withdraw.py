"""`rung withdraw`: withdraw approvals."""

from __future__ import annotations

import typer

from matrices.ledger import query
from pipeline.cli import context, output
from pipeline.cli.names import cell_names

ORDER = 70
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def withdraw(
    cell: list[str] = typer.Argument(
        metavar="CELL...", help="Ids, unambiguous parts or patterns", autocompletion=cell_names
    ),
    by: str = typer.Option(..., "--by", help="Who withdraws"),
    reason: str = typer.Option(..., "--reason", help="Why"),
) -> None:
    """Withdraw approvals. Releases that hold such a cell are not changed; they are listed.

    The artifacts go on the signed revocation list, which nodes take at their next pull.
    """
    board = context.board()
    ledger = context.ruling_ledger(board.database)
    with context.publishing_rulings(board.database):
        for each in board.cells_named(cell):
            ledger.withdraw(each.id, who=by, why=reason)
            output.note(f"withdrew {each.id}")
            for name in query.releases_with(board.database, cell=each.id, artifact=each.artifact):
                output.note(f"  release `{name}` still holds it: create one without it and roll it out")
