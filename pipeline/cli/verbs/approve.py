"""`rung approve`: approve cells for release."""

from __future__ import annotations

import typer

from matrices.cells.levels import missing_evidence
from matrices.ledger import query
from pipeline.cli import context, output
from pipeline.cli.selection import select_cells
from registry.errors import ConfigurationError, NotFoundError, RefusedError

ORDER = 50
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def approve(
    cell: list[str] = typer.Argument(
        None, metavar="[CELL]...", help="Ids, unambiguous parts (`mid:w4:tvm`) or patterns"
    ),
    by: str = typer.Option(..., "--by", help="Who approves"),
    reason: str = typer.Option(..., "--reason", help="Why"),
    waive: str | None = typer.Option(
        None, "--waive", help="Approve with evidence missing: why that is accepted; recorded"
    ),
    passing: bool = typer.Option(False, "--passing", help="All cells whose evidence suffices, of --family"),
    family: str | None = typer.Option(None, help="With --passing: the family"),
    as_json: bool = typer.Option(False, "--json", help="Print the approvals as JSON"),
) -> None:
    """Approve cells for release. Refused (exit 8) where evidence is missing, unless it is waived."""
    place = context.workspace()
    database = context.database(place)
    if passing == bool(cell):
        raise ConfigurationError("give cells, or `--passing`, not both", hint="see `rung approve --help`")
    if passing:
        everything = query.cells(database, family=family)
        tasks = {result.task_type for each in everything for result in each.tasks}
        chosen = [
            c
            for c in everything
            if c.state in ("evaluated", "benchmarked") and not missing_evidence(c, tasks=tasks)
        ]
        if not chosen and not any(c.state == "approved" for c in everything):
            raise NotFoundError(
                "no cell's evidence suffices", hint="`rung matrix explain CELL` says what is missing"
            )
    else:
        chosen = select_cells(database, cell)
    ledger = context.ledger(place)
    approvals, refusals = {}, []
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
