"""The database is not believed: what was edited in it is found by doctor, and is in no release."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.pipeline.conftest import Place, copy_of


@pytest.fixture
def edited(released: Place, tmp_path: Path) -> Place:
    """A copy of a workspace with approved cells, to be edited."""
    return copy_of(released, tmp_path)


def edit(place: Place, change) -> None:
    database = sqlite3.connect(place.root / ".rung/rung.db")
    rows = database.execute("select id, payload from rung_cell where state = 'approved'").fetchall()
    assert rows
    for cell, payload in rows:
        numbers = json.loads(payload)
        for result in numbers["tasks"]:
            change(result)
        database.execute("update rung_cell set payload = ? where id = ?", (json.dumps(numbers), cell))
    database.commit()
    database.close()


def better_accuracy(result) -> None:
    result["accuracy"] = 0.999


def better_verdict(result) -> None:
    for verdict in result["verdicts"]:
        verdict["accuracy"] = 0.999


def better_tier(result) -> None:
    result["tier"] = None if result["tier"] else 1


@pytest.mark.parametrize("change", [better_accuracy, better_verdict, better_tier])
def test_a_cell_that_was_edited_is_found_and_not_released(edited: Place, change) -> None:
    edit(edited, change)
    ran = edited.rung("doctor", "--json")
    assert (ran.code, "cell" in {one["kind"] for one in json.loads(ran.out)["findings"]}) == (3, True)
    ran = edited.rung("release", "create", "lie", "ladder.toml", "--by", "me")
    assert (ran.code, "is not what its evidence shows" in ran.err) == (3, True), ran.err


def test_a_verdict_that_does_not_follow_from_the_reference_is_not_released(edited: Place) -> None:
    def turned(result) -> None:
        for verdict in result["verdicts"]:
            verdict["status"] = "fail" if verdict["status"] == "pass" else "pass"
        passed = [verdict["tier"] for verdict in result["verdicts"] if verdict["status"] == "pass"]
        result["tier"] = min(passed, default=None)

    edit(edited, turned)
    ran = edited.rung("release", "create", "lie", "ladder.toml", "--by", "me")
    assert (ran.code, "follows from no reference on record" in ran.err) == (3, True), ran.err


def test_a_state_without_its_ruling_is_found(edited: Place) -> None:
    database = sqlite3.connect(edited.root / ".rung/rung.db")
    database.execute("update rung_cell set state = 'rejected' where state = 'approved'")
    database.commit()
    database.close()
    ran = edited.rung("doctor", "--json")
    assert (ran.code, "no ruling on its artifact says so" in ran.out) == (3, True)


def test_an_unedited_cell_is_released_and_a_damaged_blob_stops_that(edited: Place) -> None:
    assert '"cell"' not in edited.rung("doctor", "--json").out
    edited.must("release", "create", "r2", "ladder.toml", "--by", "me")
    release = json.loads((edited.root / ".rung/releases/r1/release.json").read_text())
    manifest = release["cells"][0]["manifest"]
    [entry] = [file for file in manifest["files"] if file["path"] == manifest["entry"]]
    digest = entry["digest"].removeprefix("sha256:")
    blob = edited.root / ".rung/store/blobs/sha256" / digest
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes()[:-1] + b"?")
    ran = edited.rung("release", "create", "damaged", "ladder.toml", "--by", "me")
    assert (ran.code, "does not have its digest" in ran.err) == (3, True), ran.err
