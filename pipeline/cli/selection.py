"""Which cells a person means: names, parts of names, or patterns."""

from __future__ import annotations

import fnmatch

from matrices.cells.cell import Cell
from matrices.ledger import query
from matrices.ledger.db import Database
from registry.errors import NotFoundError

WILDCARDS = frozenset("*?[")


def select_cells(database: Database, names: list[str]) -> list[Cell]:
    """The cells that names and shell patterns mean, each once, in the matrix's order.

    Raises:
        NotFoundError: A name or pattern means no cell.
        ConfigurationError: A name means several cells.
    """
    chosen: dict[str, Cell] = {}
    for name in names:
        for cell in _matching(database, name):
            chosen[cell.id] = cell
    return list(chosen.values())


def _matching(database: Database, name: str) -> list[Cell]:
    if not WILDCARDS & set(name):
        return [query.find_cell(database, name)]
    found = [cell for cell in query.cells(database) if fnmatch.fnmatchcase(cell.id, name)]
    if not found:
        raise NotFoundError(f"no cell matches `{name}`", hint="`rung matrix show` lists them")
    return found
