"""`rung checkpoint`: register checkpoints in MLflow, and list them."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.table import Table

from pipeline.cli import context, output
from pipeline.cli.names import checkpoint_names
from pipeline.workspace.locks import writing
from registry.checkpoint import Checkpoint
from registry.digest import short

ORDER = 20
app = typer.Typer(add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def checkpoint() -> None:
    """Register checkpoints in MLflow, and list them."""


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
    workspace = context.this_workspace()
    checkpoints = context.checkpoints(workspace)
    with writing(workspace):
        if source.startswith("models:/"):
            registered = source.removeprefix("models:/").split("/")[0].split("@")[0]
            added = checkpoints.add_uri(source, family=family or registered, licence=licence, parent=parent)
        else:
            path = Path(source)
            name = name or path.resolve().name
            added = checkpoints.add(
                path, name=name, family=family or name, licence=licence, parent=parent, alias=alias
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
