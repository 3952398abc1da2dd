from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlmodel import SQLModel

from matrices.ledger import models, query
from matrices.ledger.db import VERSION_TABLE, Database, known_versions, newest_version, open_database
from matrices.ledger.ledger import Ledger
from matrices.views.board import Board
from matrices.views.table import matrix_json
from registry.digest import canonical_json
from registry.errors import ConfigurationError, CorruptError, RegistryError, SchemaError, StorageFullError

ROOT = Path(__file__).parents[3]


def test_the_migrations_make_exactly_the_tables_of_the_models(database: Database):
    assert models.APPEND_ONLY
    with database.reading() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": VERSION_TABLE, "compare_type": True}
        )
        ours = {table for table in SQLModel.metadata.tables if table.startswith("rung_")}
        assert set(sa.inspect(connection).get_table_names()) == ours | {VERSION_TABLE}
        assert compare_metadata(context, SQLModel.metadata) == []


def test_file_names_of_migrations_are_the_revisions_that_alembic_sees():
    script = ScriptDirectory(str(ROOT / "matrices" / "ledger" / "migrations"))
    revisions = [one.revision for one in script.walk_revisions()]
    assert tuple(reversed(revisions)) == known_versions()
    assert script.get_current_head() == newest_version()


def test_a_database_that_is_up_to_date_opens_without_alembic(url: str):
    open_database(url).close()
    program = (
        "import sys; from matrices.ledger.db import open_database; open_database(sys.argv[1]).close();"
        "print('alembic' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, url], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def _open_and_count(url: str, barrier: object) -> int:
    barrier.wait()  # type: ignore[attr-defined]
    database = open_database(url)
    with database.reading() as connection:
        count = connection.execute(sa.text(f"SELECT count(*) FROM {VERSION_TABLE}")).scalar_one()
    database.close()
    return int(count)


def _child(url: str, barrier: object, answers: object) -> None:
    try:
        answers.put(_open_and_count(url, barrier))  # type: ignore[attr-defined]
    except Exception as error:  # noqa: BLE001  told to the parent, whose assertion shows it
        answers.put(repr(error))  # type: ignore[attr-defined]


def test_several_processes_open_a_new_database_at_once(url: str):
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(3), spawn.Queue()
    processes = [spawn.Process(target=_child, args=(url, barrier, answers)) for _ in range(3)]
    for process in processes:
        process.start()
    got = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    assert got == [1, 1, 1]


def test_a_migration_that_is_killed_leaves_nothing(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'matrix.db'}"
    program = (
        "import os, sys, signal; from alembic import op; from matrices.ledger.db import open_database\n"
        "real, seen = op.create_index, []\n"
        "def dying(*a, **k):\n"
        "    seen.append(a); real(*a, **k)\n"
        "    if len(seen) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "op.create_index = dying\n"
        "open_database(sys.argv[1])\n"
    )
    done = subprocess.run([sys.executable, "-c", program, url], cwd=ROOT, check=False)
    assert done.returncode == -9
    with sqlite3.connect(tmp_path / "matrix.db") as raw:
        assert raw.execute("SELECT name FROM sqlite_master").fetchall() == []
    open_database(url).close()


@pytest.mark.parametrize("statement", ["UPDATE {t} SET {c} = {c}", "DELETE FROM {t}", "TRUNCATE {t} CASCADE"])
@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("rung_evidence", "detail"),
        ("rung_ruling", "why"),
        ("rung_release", "document"),
        ("rung_release_cell", "artifact"),
    ],
)
def test_the_database_itself_refuses_to_change_what_was_recorded(
    database: Database, full_ledger: Ledger, table: str, column: str, statement: str
):
    if database.engine.dialect.name == "sqlite" and statement.startswith("TRUNCATE"):
        pytest.skip("SQLite has no TRUNCATE")
    with database.reading() as connection:
        count = connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one()
    assert count > 0
    with pytest.raises(RegistryError, match="append-only"), database.writing() as connection:
        connection.execute(sa.text(statement.format(t=table, c=column)))


def test_sqlite_cannot_replace_a_row_that_was_recorded(
    tmp_path: Path, database: Database, full_ledger: Ledger
):
    if database.engine.dialect.name != "sqlite":
        pytest.skip("INSERT OR REPLACE is SQLite's")
    with sqlite3.connect(tmp_path / "matrix.db") as raw, pytest.raises(sqlite3.Error, match="append-only"):
        raw.execute("INSERT OR REPLACE INTO rung_evidence SELECT * FROM rung_evidence")


def test_a_database_of_a_newer_schema_is_refused_by_name(url: str):
    database = open_database(url)
    with database.writing() as connection:
        connection.execute(sa.text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    database.close()
    with pytest.raises(SchemaError, match="schema `9999`") as caught:
        open_database(url)
    assert "upgrade" in caught.value.hint


def test_a_url_never_shows_its_password():
    with pytest.raises(RegistryError) as caught:
        open_database("postgresql://ada:hunter2@127.0.0.1:1/matrix?connect_timeout=2")
    chain: BaseException | None = caught.value
    assert "127.0.0.1:1/matrix" in str(caught.value)
    assert "***" in str(caught.value)
    while chain is not None:
        assert "hunter2" not in str(chain)
        chain = chain.__cause__


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("", "cannot be parsed"),
        ("hunter2 is no url", "cannot be parsed"),
        ("mysql://user@localhost/x", "`mysql`"),
        ("sqlite://", "in-memory"),
        ("sqlite:///:memory:", "in-memory"),
        ("sqlite://host/x.db", "names a host"),
        ("postgresql://u:p@h:notaport/x", "cannot be parsed"),
    ],
)
def test_a_url_that_rung_cannot_use_is_a_configuration_error(url: str, problem: str):
    with pytest.raises(ConfigurationError, match=problem) as caught:
        open_database(url)
    assert "hunter2" not in str(caught.value)


def test_a_file_that_is_no_database_is_refused_and_kept(tmp_path: Path):
    path = tmp_path / "notes.txt"
    path.write_text("this is not a database" * 100)
    with pytest.raises(RegistryError, match=r"notes\.txt.* is not a database"):
        open_database(f"sqlite:///{path}")
    assert path.read_text() == "this is not a database" * 100


def test_a_directory_that_is_missing_is_named(tmp_path: Path):
    with pytest.raises(RegistryError, match=r"gone/matrix\.db` cannot be opened"):
        open_database(f"sqlite:///{tmp_path / 'gone' / 'matrix.db'}")


def test_a_damaged_database_is_told_and_found_by_problems(tmp_path: Path, new_cell):
    path = tmp_path / "matrix.db"
    database = open_database(f"sqlite:///{path}")
    ledger = Ledger(database)
    for number in range(40):
        ledger.put_cell(new_cell(f"demo-mid/{number + 1}"))
    assert database.problems() == []
    with database.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4096 * 4096  # behind the pages of the schema
    for start in range(middle, len(data), 4096):
        data[start : start + 64] = os.urandom(64)
    path.write_bytes(bytes(data))
    damaged = open_database(f"sqlite:///{path}")
    with pytest.raises(CorruptError, match="is damaged"):
        query.cells(damaged)
    assert "is damaged" in " ".join(damaged.problems())


def test_a_full_disk_is_told_and_nothing_is_half_written(tmp_path: Path, new_cell):
    database = open_database(f"sqlite:///{tmp_path / 'matrix.db'}")
    ledger = Ledger(database)
    ledger.put_cell(new_cell())
    with database.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    @sa.event.listens_for(database.engine, "begin")
    def _limit(connection: sa.Connection) -> None:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")

    huge = new_cell("demo-small/1", state="failed", reason="x" * 1_000_000)
    with pytest.raises(StorageFullError, match="has no space left"):
        ledger.put_cell(huge)
    sa.event.remove(database.engine, "begin", _limit)
    with database.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM rung_cell")).scalar_one() == 1
    assert database.problems() == []
    database.close()


def test_a_database_shared_with_another_alembic_application_keeps_its_version(tmp_path: Path):
    with sqlite3.connect(tmp_path / "shared.db") as raw:
        raw.execute("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)")
        raw.execute("INSERT INTO alembic_version VALUES ('of-another-one')")
    open_database(f"sqlite:///{tmp_path / 'shared.db'}").close()
    with sqlite3.connect(tmp_path / "shared.db") as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("of-another-one",)]


def test_times_without_a_zone_are_refused_by_the_tables(database: Database):
    from datetime import datetime

    with pytest.raises(sa.exc.StatementError, match="no zone"), database.writing() as connection:
        connection.execute(
            sa.insert(models.StageRow).values(
                key="k", stage="s", output="{}", seconds=1.0,
                started_at=datetime(2026, 1, 1),
                finished_at=datetime(2026, 1, 1),
            )
        )  # fmt: skip


def test_a_reader_sees_one_state_while_another_writes(url: str, new_cell):
    one, two = open_database(url), open_database(url)
    count = sa.text("SELECT count(*) FROM rung_cell")
    with one.reading() as connection:
        assert connection.execute(count).scalar_one() == 0
        Ledger(two).put_cell(new_cell())
        assert connection.execute(count).scalar_one() == 0
    with one.reading() as connection:
        assert connection.execute(count).scalar_one() == 1
    one.close()
    two.close()


def test_a_writer_that_waits_too_long_is_told_why(tmp_path: Path, new_cell, monkeypatch):
    monkeypatch.setattr("matrices.ledger.db.BUSY_SECONDS", 0.1)
    url = f"sqlite:///{tmp_path / 'matrix.db'}"
    one, two = open_database(url), open_database(url)
    with one.writing(), pytest.raises(RegistryError, match="is locked") as caught:
        Ledger(two).put_cell(new_cell())
    assert "another process" in caught.value.hint
    Ledger(two).put_cell(new_cell())
    one.close()
    two.close()


def test_a_database_of_the_first_schema_is_brought_forward_with_its_evidence(url: str, monkeypatch):
    """Evidence that was recorded before there were means was obtained on the chip."""
    first = known_versions()[0]
    monkeypatch.setattr("matrices.ledger.db.newest_version", lambda: first)
    upgrade = command.upgrade
    monkeypatch.setattr("alembic.command.upgrade", lambda config, _: upgrade(config, first))
    old = open_database(url)
    with old.writing() as connection:
        now = "2026-11-22 12:00:00+00:00"
        cell = "'a/1:fp32:t:tvm', 'f', 'a/1', 'sha256:x', 1, 'fp32', 't', 'tvm', 'built', '', '{}', "
        cell += f"'{now}'"
        names = "id, family, checkpoint, checkpoint_digest, tier, recipe, target, toolchain, state, reason"
        connection.execute(sa.text(f"INSERT INTO rung_cell ({names}, payload, updated_at) VALUES ({cell})"))
        step = f"'a/1:fp32:t:tvm', 'loads', 'a chip', '{now}', ''"
        connection.execute(
            sa.text(f"INSERT INTO rung_evidence (cell_id, state, chip, at, detail) VALUES ({step})")
        )
    old.close()
    monkeypatch.undo()
    database = open_database(url)
    with database.reading() as connection:
        (step,) = query.select_evidence(connection)["a/1:fp32:t:tvm"]
    database.close()
    assert (step.state, step.via) == ("loads", "chip")
    assert (step.measurement.driver, step.measurement.chip) == (None, "a chip")
    assert step.measurement.at == step.at


def test_a_database_of_the_second_schema_shows_the_same_matrix(tmp_path: Path):
    """A dump of what the version before measurements wrote, and what it printed of it."""
    golden = Path(__file__).parent / "golden"
    with sqlite3.connect(tmp_path / "rung.db") as raw:
        raw.executescript((golden / "schema-0002.sql").read_text(encoding="utf-8"))
    before = json.loads((golden / "matrix-0002.json").read_bytes())
    database = open_database(f"sqlite:///{tmp_path / 'rung.db'}")
    page = Board(database).matrix()
    after = json.loads(canonical_json(matrix_json(page.cells, rulings=page.rulings)))
    released = query.release(database, "golden-2")
    with pytest.raises(RegistryError, match="append-only"), database.writing() as connection:
        connection.execute(sa.text("UPDATE rung_evidence SET detail = 'changed'"))
    database.close()
    for cell in after["cells"]:
        for name in ("rehearsal", "speed"):
            assert cell.pop(name) is None, "what it was not measured for is written as absent now"
        if cell["variant"] is not None:
            for name in ("left_in_float", "wide_inputs"):
                assert cell["variant"].pop(name) == [], "nobody recorded it then"
        for result in cell["tasks"]:
            assert not any(result.pop("prompting").values()), "all was plain text then"
    assert after == before
    assert released.digest == "sha256:4066a3815fd18c6603bdf0955c6e91411fc0bb6bdc98b5cb048563ca215120ce"
