"""`rung init`: make a workspace: rung.toml, .rung/ and signing keys."""

from __future__ import annotations

from pathlib import Path

import typer

from pipeline.cli import output
from registry.workspace import init_workspace

ORDER = 10
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def init(
    directory: Path = typer.Argument(Path(), metavar="[DIR]", help="Directory; created if missing"),
) -> None:
    """Create a workspace: rung.toml, the store, the database and signing keys. Safe to repeat."""
    workspace = init_workspace(directory)
    output.note(f"workspace at {workspace.root}")
    output.note(f"signing key {workspace.private_key}; give {workspace.public_key} to the nodes")
