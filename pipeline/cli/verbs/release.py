"""`rung release`: create, list, verify and remove signed releases."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from matrices.releases.create import VALID_DAYS
from pipeline.cli import context, output, removal
from pipeline.cli.names import release_names
from pipeline.workspace.locks import writing
from registry.digest import short
from registry.errors import ConfigurationError
from registry.ladder import EVIDENCE_LEVELS, EvidenceLevel
from registry.workspace import Workspace

if TYPE_CHECKING:
    from matrices.releases.release import Release
    from pipeline.workspace.remove import Plan

LEVELS = ", ".join(EVIDENCE_LEVELS)

ORDER = 80
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def release() -> None:
    """Create, list, verify and remove signed releases."""


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
    valid_days: int = typer.Option(VALID_DAYS, min=1, help="Days after which nodes stop serving from it"),
    without_tier: list[int] = typer.Option(
        [], metavar="TIER", help="Confirm that this tier is lost for some task type; repeatable"
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the release as JSON"),
) -> None:
    """Freeze and sign a ladder's approved cells.

    Refused (exit 8) if the name exists with other content, a cell has less evidence than demanded, or a tier
    of a task type is lost that the latest release has, or that a cell earned and no approved one has.
    """
    from pipeline.publish import publish

    workspace = context.this_workspace()
    with writing(workspace):  # what is released now is not removed at the same time
        made, directory = publish(
            workspace,
            ladder,
            name=name,
            created_by=by,
            database=context.database(workspace),
            checkpoints=context.checkpoints(workspace),
            min_evidence=dict(_demand(text) for text in min_evidence),
            valid_days=valid_days,
            without_tiers=without_tier,
        )
    if as_json:
        output.data(made)
    output.note(
        f"release {made.name} ({short(made.digest)}): {len(made.cells)} cells, signed, in {directory}"
    )
    output.note(f"version {made.version} of {made.family}{_end(made)}")
    context.track(workspace, context.database(workspace))


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
    table = Table("release", "family", "version", "cells", "created", "expires", "by", "digest", box=None)
    for each in found:
        created = f"{each.created_at:%Y-%m-%d %H:%M}"
        ends = f"{each.expires_at:%Y-%m-%d}" if each.expires_at else "never"
        table.add_row(
            *(each.name, each.family, str(each.version), str(len(each.cells))),
            *(created, ends, each.created_by, short(each.digest)),
        )
    output.rich(table)


@app.command()
def verify(
    name: str = typer.Argument(
        metavar="NAME|DIR",
        help="A release of this workspace, or a directory that holds one",
        autocompletion=release_names,
    ),
    key: Path | None = typer.Option(None, help="The public key to trust; default: the workspace's"),
) -> None:
    """Verify a release's signature and end (exit 8) and every blob it names (exit 3), offline."""
    from pipeline.workspace.releases import check_valid, find_release, verify_blobs

    found, workspace = find_release(name, key=key)
    if workspace is not None:
        verify_blobs(workspace, found)
    check_valid(found, at=datetime.now(UTC))
    output.line(f"{found.name} {found.digest} verified: {len(found.cells)} cells")


@app.command()
def remove(
    name: str = typer.Argument(
        metavar="NAME", help="A release of this workspace", autocompletion=release_names
    ),
    by: str | None = typer.Option(None, "--by", help=removal.BY_HELP),
    reason: str | None = typer.Option(None, "--reason", help=removal.REASON_HELP),
    force: bool = typer.Option(False, "--force", help=removal.FORCE_HELP),
    dry_run: bool = typer.Option(False, "--dry-run", help=removal.DRY_RUN_HELP),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON"),
) -> None:
    """Remove a release and what only it holds. Refused (exit 8) if it is the newest or a node here has it.

    Nodes that have pulled it keep it: to have them stop, withdraw its cells. Its record stays.
    """

    def plan(workspace: Workspace) -> Plan:
        from pipeline.workspace.remove import plan_release_removal

        return plan_release_removal(
            workspace,
            name,
            database=context.database(workspace),
            checkpoints=context.checkpoints(workspace),
        )

    removal.remove(plan, by=by, reason=reason, force=force, dry_run=dry_run, as_json=as_json)


def _demand(text: str) -> tuple[str, EvidenceLevel]:
    target, _, level = text.partition("=")
    for known in EVIDENCE_LEVELS:
        if target and level == known:
            return target, known
    raise ConfigurationError(
        f"`--min-evidence {text}` is not TARGET=LEVEL",
        hint="levels are " + ", ".join(f"`{known}`" for known in EVIDENCE_LEVELS),
    )


def _end(release: Release) -> str:
    return f", until {release.expires_at:%Y-%m-%d}" if release.expires_at else ""
