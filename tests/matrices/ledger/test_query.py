from __future__ import annotations

import pytest
import sqlalchemy as sa

from matrices.cells.cell import Evidence
from matrices.ledger import query
from matrices.releases.ruling import Ruling
from registry.errors import ConfigurationError, CorruptError, NotFoundError


@pytest.fixture
def filled(database, ledger, new_cell):
    places = [
        ("demo-flagship/1", "fp32", "cpu-x86-64-v3", "onnxruntime"),
        ("demo-flagship/1", "fp32", "cpu-x86-64-v3", "tvm"),
        ("demo-mid/1", "w4g32-gptq", "cpu-x86-64-v3", "onnxruntime"),
        ("demo-mid/1", "w4g32-gptq", "cpu-aarch64-neoverse-n1", "tvm"),
        ("demo-mid/2", "w4g32-gptq", "cpu-x86-64-v3", "onnxruntime"),
    ]
    for place in places:
        ledger.put_cell(new_cell(*place, tier=1 if "flagship" in place[0] else 2))
    ledger.put_cell(new_cell("other/1", state="failed", reason="segfault", family="another"))
    return database


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 6),
        ({"family": "demo"}, 5),
        ({"target": "cpu-aarch64-neoverse-n1"}, 1),
        ({"recipe": "fp32"}, 2),
        ({"toolchain": "tvm"}, 2),
        ({"state": "failed"}, 1),
        ({"checkpoint": "demo-mid/1", "toolchain": "tvm"}, 1),
        ({"family": "demo", "state": "failed"}, 0),
        ({"family": "'; DROP TABLE rung_cell; --"}, 0),
    ],
)
def test_cells_are_filtered_by_every_column(filled, filters, count):
    found = query.cells(filled, **filters)
    assert len(found) == count
    assert all(getattr(cell, column) == value for cell in found for column, value in filters.items())


def test_cells_come_in_the_order_of_the_ladder(filled):
    listed = query.cells(filled, family="demo")
    assert [cell.tier for cell in listed] == [1, 1, 2, 2, 2]
    assert [cell.checkpoint for cell in listed][2:] == ["demo-mid/1", "demo-mid/1", "demo-mid/2"]


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("demo-flagship/1:fp32:cpu-x86-64-v3:tvm", "demo-flagship/1:fp32:cpu-x86-64-v3:tvm"),
        ("demo-flagship/1:fp32:cpu-x86-64-v3:t", "demo-flagship/1:fp32:cpu-x86-64-v3:tvm"),
        ("demo-mid/2", "demo-mid/2:w4g32-gptq:cpu-x86-64-v3:onnxruntime"),
        ("flagship:tvm", "demo-flagship/1:fp32:cpu-x86-64-v3:tvm"),
        ("mid/1:aarch64", "demo-mid/1:w4g32-gptq:cpu-aarch64-neoverse-n1:tvm"),
        ("other", "other/1:w4g32-gptq:cpu-x86-64-v3:onnxruntime"),
    ],
)
def test_a_cell_is_found_by_its_start_or_by_parts(filled, name, cell):
    assert query.find_cell(filled, name).id == cell


def test_a_cell_is_found_by_its_artifact(filled):
    cell = query.find_cell(filled, "demo-mid/2")
    assert query.find_cell(filled, cell.artifact) == cell
    assert query.find_cell(filled, cell.artifact[7:17]) == cell


@pytest.mark.parametrize("name", ["demo", "w4g32", "demo-flagship/1"])
def test_a_name_of_several_cells_lists_them(filled, name):
    with pytest.raises(ConfigurationError, match=r"matches [2-9] cells") as caught:
        query.find_cell(filled, name)
    assert caught.value.hint.count("`") >= 4


@pytest.mark.parametrize(
    "name", ["", ":", "::::", ":tvm", "demo-flagshop/1:fp32:cpu-x86-64-v3:tvm", "zzz", "%", "a" * 10_000]
)
def test_a_name_of_no_cell_says_so(filled, name):
    with pytest.raises(NotFoundError, match="no cell") as caught:
        query.find_cell(filled, name)
    if name.startswith("demo"):
        assert "did you mean `demo-flagship/1:fp32:cpu-x86-64-v3:tvm`" in caught.value.hint


def test_history_tells_evidence_and_rulings_of_every_artifact(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    ledger.approve(cell.id, who="Ada", why="good")
    ledger.put_cell(new_cell(build="b"))
    told = query.history(database, cell.id)
    assert [one.at for one in told] == sorted(one.at for one in told)
    assert [one.verb for one in told if isinstance(one, Ruling)] == ["approve"]
    digests = {one.digest for one in told if isinstance(one, Evidence)}
    assert len(digests - {None}) == 2
    with pytest.raises(NotFoundError):
        query.history(database, "demo-mid/1")


def test_a_ruling_on_an_earlier_artifact_is_not_the_standing_one(database, ledger, new_cell):
    cell = ledger.put_cell(new_cell())
    ledger.reject(cell.id, who="Ada", why="bad")
    assert query.rulings(database)[cell.id].verb == "reject"
    assert query.rulings(database, family="another") == {}
    ledger.put_cell(new_cell(build="b"))
    assert query.rulings(database) == {}


def test_an_unknown_release_offers_near_ones(database, full_ledger):
    assert full_ledger is not None
    with pytest.raises(NotFoundError, match="no release `r2`") as caught:
        query.release(database, "r2")
    assert "did you mean `r1`" in caught.value.hint


@pytest.mark.parametrize(
    ("column", "value"),
    [("payload", "{"), ("payload", '{"parity": 3, "tasks": []}'), ("state", "splendid"), ("artifact", "x")],
)
def test_a_row_that_other_hands_changed_is_named(database, ledger, new_cell, column, value):
    cell = ledger.put_cell(new_cell())
    with database.writing() as connection:
        connection.execute(sa.text(f"UPDATE rung_cell SET {column} = :value"), {"value": value})
    with pytest.raises(CorruptError, match=cell.id):
        query.cells(database)


def test_states_are_counted_without_reading_documents(filled):
    with filled.reading() as connection:
        rows = connection.execute(
            sa.text("SELECT state, count(*) FROM rung_cell GROUP BY state ORDER BY state")
        )
        assert rows.all() == [("evaluated", 5), ("failed", 1)]
