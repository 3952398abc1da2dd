"""Translate exceptions of SQLite, PostgreSQL and SQLAlchemy into Rung's errors, with a remedy."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy as sa

from registry.errors import ConfigurationError, CorruptError, RegistryError, RungError, StorageFullError

_SQLITE: Final[dict[str, tuple[type[RungError], str, str]]] = {
    "SQLITE_FULL": (StorageFullError, "has no space left", "free space on its disk"),
    "SQLITE_NOTADB": (RegistryError, "is not a database", "move that file away, or set RUNG_DATABASE_URL"),
    "SQLITE_CORRUPT": (CorruptError, "is damaged", "restore a backup, or move the file away and build again"),
    "SQLITE_CANTOPEN": (
        RegistryError,
        "cannot be opened",
        "check that its directory exists and can be written",
    ),
    "SQLITE_READONLY": (RegistryError, "cannot be written", "check the permissions of it and its directory"),
    "SQLITE_PERM": (RegistryError, "cannot be opened", "check the permissions of it and its directory"),
    "SQLITE_BUSY": (RegistryError, "is locked", "another process has been writing for long; wait for it"),
    "SQLITE_IOERR": (RegistryError, "cannot be read or written", "check its disk and the space left on it"),
}
_DISK_FULL: Final = "53100"
"""PostgreSQL's `disk_full` (https://www.postgresql.org/docs/current/errcodes-appendix.html)."""


@contextmanager
def translated(name: str) -> Iterator[None]:
    """Run a block; exceptions of the database drivers are raised as Rung's errors.

    Args:
        name: The database's URL without its password.

    Raises:
        StorageFullError: No space is left.
        CorruptError: The database is damaged.
        RegistryError: Anything else that the database refuses.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, name=name) from error
    except sa.exc.DBAPIError as error:
        raise _from_driver(error, name=name) from error
    except sa.exc.TimeoutError as error:
        raise RegistryError(
            f"the database `{name}` gave no connection in time", hint="end other processes that use it"
        ) from error
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"no driver for the database `{name}`: {error}", hint="install `rung[postgres]`"
        ) from error


def _from_driver(error: sa.exc.DBAPIError, *, name: str) -> RungError:
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        return _from_sqlite(cause, name=name)
    message = " ".join(str(cause).split()) or type(cause).__name__
    if getattr(cause, "sqlstate", None) == _DISK_FULL:
        return StorageFullError(
            f"the database `{name}` has no space left: {message}", hint="free space on its server's disk"
        )
    if isinstance(error, sa.exc.OperationalError):
        return RegistryError(
            f"the database `{name}` cannot be reached: {message}",
            hint="check that the server runs, and the host, user, password and database of RUNG_DATABASE_URL",
        )
    return RegistryError(
        f"the database `{name}` refused: {message}", hint="run `rung doctor` to see its state"
    )


def _from_sqlite(error: sqlite3.Error, *, name: str) -> RungError:
    code = str(getattr(error, "sqlite_errorname", "") or "")
    for prefix, (kind, what, hint) in _SQLITE.items():
        if code == prefix or code.startswith(prefix + "_"):
            return kind(f"the database `{name}` {what}: {error}", hint=hint)
    return RegistryError(f"the database `{name}` refused: {error}", hint="run `rung doctor` to see its state")
