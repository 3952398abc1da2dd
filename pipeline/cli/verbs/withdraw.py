"""`rung withdraw`: withdraw approvals."""

from __future__ import annotations

import typer

from matrices.ledger import query
from pipeline.cli import context, output
from pipeline.cli.selection import select_cells

ORDER = 70
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def withdraw(
    cell: list[str] = typer.Argument(metavar="CELL...", help="Ids, unambiguous parts or patterns"),
    by: str = typer.Option(..., "--by", help="Who withdraws"),
    reason: str = typer.Option(..., "--reason", help="Why"),
) -> None:
    """Withdraw approvals. Releases that hold such a cell stay as they are; they are named."""
    place = context.workspace()
    database = context.database(place)
    ledger = context.ledger(place)
    for each in select_cells(database, cell):
        ledger.withdraw(each.id, who=by, why=reason)
        output.note(f"withdrew {each.id}")
        for name in query.releases_with(database, cell=each.id, artifact=each.artifact):
            output.note(f"  release `{name}` still holds it: create one without it and roll it out")
