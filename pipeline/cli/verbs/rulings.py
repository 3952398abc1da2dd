"""`rung rulings`: list approvals, rejections and withdrawals, and verify them."""

from __future__ import annotations

import typer
from rich.table import Table

from pipeline.cli import context, output
from registry.errors import ConfigurationError, CorruptError

ORDER = 75
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def rulings(
    sign: bool = typer.Option(
        False, "--sign", help="Sign rulings without a signature, such as those of earlier versions"
    ),
    by: str | None = typer.Option(None, "--by", help="With --sign: who vouches for them"),
    reason: str | None = typer.Option(None, "--reason", help="With --sign: why"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """List every ruling, oldest first, and verify the chain of signatures (exit 3: it is broken)."""
    from matrices.ledger import query
    from pipeline.workspace.rulings import ruling_problems, sign_rulings

    workspace = context.this_workspace()
    database = context.database(workspace)
    if sign != (by is not None) or sign != (reason is not None):
        raise ConfigurationError(
            "`--sign`, `--by` and `--reason` go together", hint="see `rung rulings --help`"
        )
    if sign and by is not None and reason is not None:
        output.note(f"{sign_rulings(workspace, database, who=by, why=reason)} rulings signed")
    found = query.sealed_rulings(database)
    problems = ruling_problems(workspace, database)
    if as_json:
        listed = [{"ruling": one.ruling, "seal": one.seal} for one in found]
        output.data({"rulings": listed, "problems": problems})
    else:
        table = Table("", "when", "ruling", "cell", "by", "reason", "signed", box=None)
        for number, one in enumerate(found, start=1):
            table.add_row(
                *(str(number), f"{one.ruling.at:%Y-%m-%d %H:%M}", one.ruling.verb, one.ruling.cell),
                *(one.ruling.who, one.ruling.why, "yes" if one.seal else "no"),
            )
        output.rich(table)
    for text in problems:
        output.note(f"problem: {text}")
    if problems:
        raise typer.Exit(CorruptError.exit_code)
