"""`rung gc`: remove what nothing in the workspace needs any more."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli import context, output
from pipeline.workspace.locks import alone
from registry.errors import ConfigurationError
from registry.upkeep import GRACE_S

if TYPE_CHECKING:
    from pipeline.workspace.garbage import Share, Survey

ORDER = 130
app = typer.Typer(add_completion=False, rich_markup_mode=None)

SHOWN = 5
"""Names of one line of the report."""


@app.command()
def gc(
    ladder: list[Path] = typer.Argument(
        None, metavar="[LADDER]...", help="All ladders in use; cells of their families that none has may go"
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would go, and why the rest is kept"),
    grace: float = typer.Option(
        GRACE_S / 3600, min=0.0, help="Keep what was added less than this many hours ago"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON"),
) -> None:
    """Remove what no release, approval, ladder, checkpoint or evidence needs any more.

    Without ladders only what nothing refers to goes. Refused (exit 2) while something else writes; killed in
    the middle, the same command finishes the work. Evidence, rulings and releases always stay.
    """
    from pipeline.workspace.garbage import remove_garbage

    if dry_run:
        _print(_survey(ladder, grace_s=grace * 3600), done=False, as_json=as_json)
        return
    workspace = context.this_workspace()
    with alone(workspace) as nobody_writes:
        if not nobody_writes:
            raise ConfigurationError(
                f"something is being written in workspace `{workspace.root}`",
                hint="wait for the build or the import that is running; `--dry-run` works beside it",
            )
        found = _survey(ladder, grace_s=grace * 3600)
        remove_garbage(found, workspace=workspace, database=context.database(workspace))
    _print(found, done=True, as_json=as_json)


def _survey(ladders: list[Path] | None, *, grace_s: float) -> Survey:
    from pipeline.workspace.garbage import survey

    workspace = context.this_workspace()
    database, checkpoints = context.database(workspace), context.checkpoints(workspace)
    wanted = None
    if ladders:
        from pipeline.build.wanted import wanted_by

        wanted = wanted_by(
            ladders, store=workspace.store, ledger=context.ledger(database), checkpoints=checkpoints
        )
    return survey(workspace, database=database, checkpoints=checkpoints, wanted=wanted, grace_s=grace_s)


def _print(found: Survey, *, done: bool, as_json: bool) -> None:
    from matrices.views.table import size

    if as_json:
        output.data(
            {
                "removed" if done else "would_remove": [asdict(share) for share in found.garbage],
                "kept": [asdict(share) for share in found.kept],
                "freed_bytes": found.freed_bytes,
                "build_records": len(found.records),
            }
        )
        return
    output.line("removed" if done else "would remove")
    for share in found.garbage:
        output.line(_line(share))
    if not found.garbage:
        output.line("  nothing")
    output.line("kept")
    for share in found.kept:
        output.line(_line(share))
    said = "freed" if done else "would be freed"
    output.note(f"{size(found.freed_bytes)} {said}")


def _line(share: Share) -> str:
    from matrices.views.table import size

    named = ", ".join(share.subjects[:SHOWN])
    if len(share.subjects) > SHOWN:
        named += f" and {len(share.subjects) - SHOWN} more"
    amount = f"{share.count:,} file{'' if share.count == 1 else 's'}"
    elsewhere = share.size_bytes - share.freed_bytes
    linked = f"; {size(elsewhere)} of it has another name on this disk" if elsewhere else ""
    return f"  {share.kind:<15} {amount:>12} {size(share.size_bytes):>9}  {share.why}" + (
        f": {named}{linked}" if named else linked
    )
