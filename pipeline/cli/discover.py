"""Find the commands of `rung` from the files in `pipeline/cli/verbs`, without importing them.

A file `node_compile.py` is the command `rung node-compile`. Its help line is the first line of its
docstring, after "`rung node-compile`: ". `ORDER` says where `rung --help` lists it: the order in which a
checkpoint meets the commands, from `rung init` to `rung serve`.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

VERBS_DIRECTORY: Final = Path(__file__).parent / "verbs"
LAST: Final = 1000
"""Order of a command that does not say where it belongs."""


@dataclass(frozen=True, slots=True)
class Verb:
    """A command of `rung`, as far as its file says without being imported."""

    name: str
    module: str
    """Dotted name of the module, which has a typer application named `app`."""
    summary: str
    """One line of help, without a final period."""
    order: int
    """Place in `rung --help`, ascending."""


@cache
def verbs() -> Mapping[str, Verb]:
    """Name → command, in the order of the help."""
    files = (path for path in VERBS_DIRECTORY.glob("*.py") if path.stem != "__init__")
    found = sorted((read_verb(path) for path in files), key=lambda verb: (verb.order, verb.name))
    return MappingProxyType({verb.name: verb for verb in found})


def read_verb(path: Path) -> Verb:
    """The command in a file, read from its syntax tree."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    name = path.stem.replace("_", "-")
    first_line = (ast.get_docstring(tree) or "").partition("\n")[0]
    summary = first_line.removeprefix(f"`rung {name}`: ").removesuffix(".")
    return Verb(
        name=name,
        module=f"pipeline.cli.verbs.{path.stem}",
        summary=summary[:1].upper() + summary[1:],
        order=_order(tree),
    )


def _order(tree: ast.Module) -> int:
    for statement in tree.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id="ORDER")], value=ast.Constant(value=int(order))):
                return order
            case _:
                continue
    return LAST
