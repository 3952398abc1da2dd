"""Names of the workspace for shell completion: cells, releases, checkpoints and targets.

A shell asks at every press of the tab key, so files are read directly, without a database library or MLflow.
What cannot be read has no names: completion never prints an error. Names that a shell could take for anything
else than a word are left out, because some shells evaluate what they are given.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable
from typing import Final

from registry.errors import RungError
from registry.sqlite_url import sqlite_path

COMPLETE_VARIABLE: Final = "_RUNG_COMPLETE"
"""Environment variable by which a shell asks `rung` for completions."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9._/:@+-]+")
_TIMEOUT_S: Final = 0.5


def cell_names(incomplete: str) -> list[str]:
    """Ids of cells, of a SQLite database."""
    return _matching(incomplete, _rows("database_url", "SELECT id FROM rung_cell ORDER BY id"))


def checkpoint_names(incomplete: str) -> list[str]:
    """`name/version` of registered checkpoints, of MLflow in SQLite."""
    query = (
        "SELECT name || '/' || version FROM model_versions WHERE status = 'READY'"
        " AND coalesce(current_stage, '') <> 'Deleted_Internal' ORDER BY name, version"
    )
    return _matching(incomplete, _rows("mlflow_uri", query))


def release_names(incomplete: str) -> list[str]:
    """Releases of the workspace."""
    from registry.workspace import find_workspace

    try:
        found = find_workspace().releases
        return _matching(incomplete, sorted(path.name for path in found.iterdir() if path.is_dir()))
    except (OSError, RungError):
        return []


def target_names(incomplete: str) -> list[str]:
    """Targets that a ladder may name."""
    from registry.target import targets

    return _matching(incomplete, targets())


def _rows(setting: str, query: str) -> list[str]:
    """The first column of a query on the SQLite database that a setting names."""
    from registry.workspace import find_workspace

    try:
        url = str(getattr(find_workspace(), setting))
    except RungError:
        return []
    path = sqlite_path(url)
    if path is None or not path.is_file():
        return []
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)
        try:
            return [str(row[0]) for row in connection.execute(query)]
        finally:
            connection.close()
    except sqlite3.Error:
        return []


def _matching(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name)]
