"""`rung checkpoint`: register checkpoints in MLflow, list and remove them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.table import Table

from pipeline.cli import context, output, removal
from pipeline.cli.names import checkpoint_names
from pipeline.workspace.locks import writing
from registry.checkpoint import Checkpoint
from registry.digest import short
from registry.errors import ConfigurationError
from registry.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.workspace.remove import Plan

ORDER = 20
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def checkpoint() -> None:
    """Register checkpoints in MLflow, list and remove them."""


@app.command()
def add(
    source: str = typer.Argument(
        metavar="PATH|models:/NAME/VERSION",
        help="A local directory in the Hugging Face layout, or a registered version",
    ),
    name: str | None = typer.Option(None, help="Registered model name; default: the directory's name"),
    family: str | None = typer.Option(None, help="Family it belongs to; default: its name"),
    licence: str | None = typer.Option(None, help="SPDX identifier; default: from its model card"),
    parent: str | None = typer.Option(None, help="NAME/VERSION it was distilled or tuned from"),
    alias: str | None = typer.Option(None, help="Alias to point at this version"),
    as_json: bool = typer.Option(False, "--json", help="Print JSON"),
) -> None:
    """Register a checkpoint. Registering the same content again yields the same version."""
    from compilers.intake import check_compilable as check
    from compilers.model.generation_config import settings_not_applied

    workspace = context.this_workspace()
    checkpoints = context.checkpoints(workspace)
    with writing(workspace):
        if source.startswith("models:/"):
            registered = source.removeprefix("models:/").split("/")[0].split("@")[0]
            if name not in (None, registered):
                raise ConfigurationError(
                    f"`{source}` is registered as `{registered}`, which is its name here too",
                    hint="omit --name; to have it under another name, download it and add the directory",
                )
            added = checkpoints.add_uri(
                source, family=family or registered, licence=licence, parent=parent, alias=alias, check=check
            )
        else:
            path = Path(source)
            name = name or path.resolve().name
            added = checkpoints.add(
                path,
                name=name,
                family=family or name,
                licence=licence,
                parent=parent,
                alias=alias,
                check=check,
            )
            for setting, value in settings_not_applied(path).items():
                output.note(
                    f"note: `{setting}` = {value} of generation_config.json is not applied when serving or "
                    "evaluating"
                )
    if as_json:
        output.data(added)
    else:
        output.line(
            f"{added.ref}  {short(added.digest)}  {added.architecture}  {added.parameters:,} parameters"
        )


@app.command("list")
def list_(as_json: bool = typer.Option(False, "--json", help="Print JSON")) -> None:
    """List registered checkpoints."""
    found = context.checkpoints(context.this_workspace()).all()
    if as_json:
        output.data(found)
        return
    table = Table("checkpoint", "family", "architecture", "parameters", "licence", "BOS", "digest", box=None)
    for each in found:
        table.add_row(*_row(each))
    output.rich(table)


@app.command()
def show(
    ref: str = typer.Argument(metavar="NAME[/VERSION|@ALIAS]", autocompletion=checkpoint_names),
) -> None:
    """Print one checkpoint as JSON."""
    output.data(context.checkpoints(context.this_workspace()).find(ref))


@app.command()
def remove(
    ref: str = typer.Argument(metavar="NAME[/VERSION|@ALIAS]", autocompletion=checkpoint_names),
    by: str | None = typer.Option(None, "--by", help=removal.BY_HELP),
    reason: str | None = typer.Option(None, "--reason", help=removal.REASON_HELP),
    force: bool = typer.Option(False, "--force", help=removal.FORCE_HELP),
    dry_run: bool = typer.Option(False, "--dry-run", help=removal.DRY_RUN_HELP),
    as_json: bool = typer.Option(False, "--json", help="Print the report as JSON"),
) -> None:
    """Remove a version from MLflow and the store. Refused (exit 8) if a release, a cell or a child needs it.

    A version that was registered without Rung stays in MLflow and only loses Rung's tags.
    """

    def plan(workspace: Workspace) -> Plan:
        from pipeline.workspace.remove import plan_checkpoint_removal

        return plan_checkpoint_removal(
            workspace,
            ref,
            database=context.database(workspace),
            checkpoints=context.checkpoints(workspace),
        )

    removal.remove(plan, by=by, reason=reason, force=force, dry_run=dry_run, as_json=as_json)


def _row(each: Checkpoint) -> tuple[str, ...]:
    return (
        each.ref,
        each.family,
        each.architecture,
        f"{each.parameters:,}",
        each.licence,
        "yes" if each.add_bos else "no",
        short(each.digest),
    )
