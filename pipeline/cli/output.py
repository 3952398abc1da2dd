"""What the command line prints: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys

from pydantic import BaseModel
from rich.console import RenderableType

from pipeline.cli.console import CleanConsole
from registry.errors import RungError


def data(value: object) -> None:
    """Print a value as indented JSON on stdout."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False))  # noqa: T201  # data goes to stdout


def line(text: str = "") -> None:
    """Print one line of data on stdout."""
    print(text)  # noqa: T201  # data goes to stdout


def rich(renderable: RenderableType) -> None:
    """Print a table or the like on stdout; as wide as it needs when stdout is no terminal."""
    console = CleanConsole()
    if not console.is_terminal:
        console = CleanConsole(width=160)
    console.print(renderable)


def note(text: str) -> None:
    """Print one line for people on stderr."""
    print(text, file=sys.stderr)  # noqa: T201  # stderr is this function's purpose


def error(problem: RungError) -> None:
    """Print an error and its remedy on stderr."""
    note(f"error: {problem.message}")
    note(f"hint: {problem.hint}")


def _plain(value: object) -> object:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
