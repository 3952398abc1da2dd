"""`rung approve`: approve cells for release."""

from __future__ import annotations

import typer

from pipeline.cli import context, output
from registry.errors import ConfigurationError, RefusedError

ORDER = 50
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def approve(
    cell: list[str] = typer.Argument(
        None, metavar="[CELL]...", help="Ids, unambiguous parts of ids (`mid:w4:tvm`) or patterns"
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
    """Approve cells for release. Refused (exit 8) if evidence is missing, unless waived."""
    if passing == bool(cell):
        raise ConfigurationError("give cells, or `--passing`, not both", hint="see `rung approve --help`")
    board = context.board()
    ledger = context.ledger(board.database)
    chosen = board.approvable(family) if passing else board.cells_named(cell)
    approvals, refusals = {}, []
    with context.publishing_revocations(board.database):
        for each in chosen:
            try:
                approvals[each.id] = ledger.approve(each.id, who=by, why=reason, waiver=waive)
                output.note(f"approved {each.id}")
            except RefusedError as refusal:
                refusals.append(refusal)
                output.error(refusal)
    if as_json:
        output.data(approvals)
    if refusals:
        raise typer.Exit(RefusedError.exit_code)
