"""Open the database of the matrix and migrate it to the newest schema; its failures become Rung's errors.

SQLite by default, PostgreSQL where several build machines share one matrix. Writes are serialised: only one
transaction writes at a time, in this process or another, so that nothing changes between the rows that a rule
reads and the row that it writes. One plain query tells whether the schema is up to date; Alembic is imported
only to migrate.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url

from matrices.ledger.db_errors import translated
from registry.errors import ConfigurationError, CorruptError, SchemaError

VERSION_TABLE: Final = "rung_schema"
BUSY_SECONDS: Final = 30
"""How long a writer waits for another one."""
_LOCK: Final = 0x52756E67
"""Key of PostgreSQL's advisory lock: "Rung" in ASCII."""
_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_URL_HINT: Final = "use `sqlite:///path/to/file.db` or `postgresql://user:password@host/database`"


@dataclass(frozen=True, slots=True)
class Database:
    """An open database of the newest schema."""

    name: str
    """The URL without its password."""
    engine: Engine

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that sees one consistent state; failures are raised as Rung's errors."""
        with translated(self.name), self.engine.connect() as plain:
            connection = plain
            if plain.dialect.name == "postgresql":  # whose default lets every statement see newer rows
                connection = plain.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """The only transaction that writes; committed at the end, rolled back on any error."""
        with translated(self.name), self.engine.connect() as plain:
            connection = plain.execution_options(rung_writes=True)
            with connection.begin():
                if connection.dialect.name == "postgresql":
                    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
                yield connection

    def problems(self) -> list[str]:
        """What is wrong inside the database, one sentence each; empty if nothing is."""
        try:
            with self.reading() as connection:
                if connection.dialect.name != "sqlite":
                    return []
                lines = [str(row[0]) for row in connection.execute(sa.text("PRAGMA integrity_check"))]
                orphans = connection.execute(sa.text("PRAGMA foreign_key_check")).all()
        except CorruptError as error:  # too damaged for SQLite to check
            return [error.message]
        found = [f"{self.name}: {line}" for line in lines if line != "ok"]
        return found + [f"{self.name}: row {row[1]} of {row[0]} has no row of {row[2]}" for row in orphans]

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_database(url: str) -> Database:
    """Open a database and bring it to the newest schema; two processes may do so at once.

    Args:
        url: `sqlite:///…` or `postgresql://…`.

    Raises:
        ConfigurationError: The URL does not name a database that Rung can use.
        SchemaError: The database was written by a newer version of Rung.
        StorageFullError: No space is left for it.
        RegistryError: It cannot be reached, is not a database, or is damaged.
    """
    parsed = _parse(url)
    database = Database(name=parsed.render_as_string(hide_password=True), engine=_engine(parsed))
    try:
        with database.reading() as connection:
            version = _version(connection, name=database.name)
        if version != newest_version():
            _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def known_versions() -> tuple[str, ...]:
    """Schema versions that this version of Rung can read, oldest first."""
    files = (_MIGRATIONS / "versions").glob("v[0-9][0-9][0-9][0-9]_*.py")
    return tuple(sorted(path.name[1:5] for path in files))


def newest_version() -> str:
    """The schema version that this version of Rung writes."""
    return known_versions()[-1]


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: the port is not a number
        # The text may hold a password: do not repeat it, nor chain the exception that does.
        raise ConfigurationError("the database URL cannot be parsed", hint=_URL_HINT) from None
    match parsed.get_backend_name():
        case "sqlite":
            return _sqlite_url(parsed)
        case "postgresql" | "postgres":
            return parsed.set(drivername="postgresql+psycopg")
        case other:
            raise ConfigurationError(f"a `{other}` database cannot hold the matrix", hint=_URL_HINT)


def _sqlite_url(parsed: URL) -> URL:
    if parsed.database in (None, "", ":memory:") or "mode=memory" in str(parsed):
        raise ConfigurationError("an in-memory database would forget all evidence", hint=_URL_HINT)
    if parsed.host or parsed.username:
        raise ConfigurationError(
            f"`{parsed.render_as_string(hide_password=True)}` names a host, SQLite is a file",
            hint="use three slashes: `sqlite:///relative.db`, or four: `sqlite:////absolute.db`",
        )
    return parsed.set(drivername="sqlite")


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_SECONDS})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
        return engine
    with translated(url.render_as_string(hide_password=True)):
        wait = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
        return sa.create_engine(url, connect_args=wait, pool_pre_ping=True, pool_size=2)


def _prepare_sqlite(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not guessed by the driver
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA recursive_triggers = ON")
    connection.execute("PRAGMA synchronous = FULL")  # an approval that was reported survives a power cut


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer fails at once if another wrote meanwhile.
    writes = connection.get_execution_options().get("rung_writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _version(connection: Connection, *, name: str) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    versions = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
    if not versions:
        return None
    version = " and ".join(str(one) for one in versions)
    if version not in known_versions():
        raise SchemaError(
            f"the database `{name}` has schema `{version}`, this version reads up to `{newest_version()}`",
            hint="upgrade Rung on this machine, or set RUNG_DATABASE_URL to another database",
        )
    return version


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    if database.engine.dialect.name == "sqlite":
        _turn_on_wal(database)
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with database.writing() as connection:
        # Another process may have migrated it while this one waited for the lock.
        if _version(connection, name=database.name) != newest_version():
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def _turn_on_wal(database: Database) -> None:
    # Switching to WAL needs exclusive access to the file, and SQLite does not wait for it. The mode is stored
    # in the file, so this happens once. It cannot happen inside a transaction, hence the raw connection.
    deadline = time.monotonic() + BUSY_SECONDS
    with translated(database.name):
        raw = database.engine.raw_connection()
        try:
            while True:
                try:
                    raw.cursor().execute("PRAGMA journal_mode = WAL")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
        finally:
            raw.close()
