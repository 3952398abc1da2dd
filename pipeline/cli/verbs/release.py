"""`rung release`: create, list and verify signed releases."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.table import Table

from pipeline.cli import context, output
from registry.digest import short
from registry.errors import ConfigurationError
from registry.ladder import EVIDENCE_LEVELS, EvidenceLevel

LEVELS = ", ".join(EVIDENCE_LEVELS)

ORDER = 80
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def release() -> None:
    """Create, list and verify signed releases."""


@app.command()
def create(
    name: str = typer.Argument(help="Lower-case letters, digits, `.`, `_`, `-`"),
    ladder: Path = typer.Argument(metavar="LADDER", help="The ladder whose approved cells to freeze"),
    by: str = typer.Option(..., "--by", help="Who creates it"),
    min_evidence: list[str] = typer.Option(
        [],
        metavar="TARGET=LEVEL",
        help=f"Minimum evidence of a target, overrides the ladder's `[evidence]`; repeatable: {LEVELS}",
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the release as JSON"),
) -> None:
    """Freeze and sign a ladder's approved cells.

    Refused (exit 8) if the name exists with other content, or a cell has less evidence than demanded.
    """
    from pipeline.publish import publish

    workspace = context.this_workspace()
    made, directory = publish(
        workspace,
        ladder,
        name=name,
        created_by=by,
        database=context.database(workspace),
        checkpoints=context.checkpoints(workspace),
        min_evidence=dict(_demand(text) for text in min_evidence),
    )
    if as_json:
        output.data(made)
    output.note(
        f"release {made.name} ({short(made.digest)}): {len(made.cells)} cells, signed, in {directory}"
    )


@app.command("list")
def list_(
    family: str | None = typer.Option(None, help="Only this family"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """List releases, oldest first."""
    from matrices.ledger import query

    found = query.releases(context.database(context.this_workspace()), family=family)
    if as_json:
        output.data(found)
        return
    table = Table("release", "family", "cells", "created", "by", "digest", box=None)
    for each in found:
        created = f"{each.created_at:%Y-%m-%d %H:%M}"
        table.add_row(
            each.name, each.family, str(len(each.cells)), created, each.created_by, short(each.digest)
        )
    output.rich(table)


@app.command()
def verify(
    name: str = typer.Argument(
        metavar="NAME|DIR", help="A release of this workspace, or a directory that holds one"
    ),
    key: Path | None = typer.Option(None, help="The public key to trust; default: the workspace's"),
) -> None:
    """Verify a release's signature (exit 8) and every blob it names (exit 3), offline."""
    from pipeline.workspace.releases import find_release, verify_blobs

    found, workspace = find_release(name, key=key)
    if workspace is not None:
        verify_blobs(workspace, found)
    output.line(f"{found.name} {found.digest} verified: {len(found.cells)} cells")


def _demand(text: str) -> tuple[str, EvidenceLevel]:
    target, _, level = text.partition("=")
    for known in EVIDENCE_LEVELS:
        if target and level == known:
            return target, known
    raise ConfigurationError(
        f"`--min-evidence {text}` is not TARGET=LEVEL",
        hint="levels are " + ", ".join(f"`{known}`" for known in EVIDENCE_LEVELS),
    )
