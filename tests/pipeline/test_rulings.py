"""Rulings at the command line: what somebody wrote into the database is found, and nothing is released."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.conftest import Place, cells, copy_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def edit(place: Place, *statements: str) -> None:
    """Change the database as somebody would who is allowed to: without its triggers."""
    with sqlite3.connect(place.root / ".rung" / "rung.db") as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f'DROP TRIGGER "{name}"')
        for statement in statements:
            connection.execute(statement)


def forge_approval(place: Place) -> None:
    cell, artifact = next((name, cell["artifact"]) for name, cell in cells(place).items())
    edit(
        place,
        f"UPDATE rung_cell SET state = 'approved', reason = '' WHERE id = '{cell}'",
        "INSERT INTO rung_ruling (cell_id, verb, who, why, at, artifact, waiver, missing) VALUES "
        f"('{cell}', 'approve', 'ceo@example.com', 'trust me', datetime('now'), '{artifact}', NULL, '[]')",
    )


def take_the_withdrawal_back(place: Place) -> None:
    edit(
        place,
        "UPDATE rung_cell SET state = 'approved', reason = '' WHERE state = 'withdrawn'",
        "DELETE FROM rung_ruling_seal WHERE ruling = (SELECT max(seq) FROM rung_ruling)",
        "DELETE FROM rung_ruling WHERE verb = 'withdraw'",
    )


def rewrite_a_reason(place: Place) -> None:
    edit(place, "UPDATE rung_ruling SET who = 'Eve' WHERE seq = 1")


def exchange_two(place: Place) -> None:
    edit(
        place,
        *(
            f"UPDATE {table} SET {column} = CASE {column} WHEN 1 THEN -2 ELSE -1 END WHERE {column} IN (1, 2)"
            for table, column in (("rung_ruling", "seq"), ("rung_ruling_seal", "ruling"))
        ),
        "UPDATE rung_ruling SET seq = -seq WHERE seq < 0",
        "UPDATE rung_ruling_seal SET ruling = -ruling WHERE ruling < 0",
    )


def forget_all_signatures(place: Place) -> None:
    edit(place, "DELETE FROM rung_ruling_seal")
    (place.root / ".rung" / "rulings.json").unlink()


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        (forge_approval, "by ceo@example.com"),
        (take_the_withdrawal_back, "is missing"),
        (rewrite_a_reason, "was changed after it was signed"),
        (exchange_two, "ruling 1 (approve"),
        (forget_all_signatures, "is not signed"),
    ],
)
def test_rulings_that_were_not_made_by_rung_are_named_and_nothing_is_released(
    released: Place, tmp_path: Path, attack: Callable[[Place], None], named: str
) -> None:
    place = copy_of(released, tmp_path)
    cell = next(iter(cells(place)))
    place.must("withdraw", cell, "--by", "me", "--reason", "harmful answers")
    assert json.loads(place.must("doctor", "--json").out)["findings"] == []

    attack(place)

    for command in (
        ("release", "create", "r2", "ladder.toml", "--by", "x"),
        ("approve", cell, "--by", "x", "--reason", "y"),
        ("withdraw", cell, "--by", "x", "--reason", "y"),
        ("rulings",),
    ):
        ran = place.rung(*command)
        assert ran.code == 3, f"{command}: {ran.out} {ran.err}"
        assert named in ran.err
    found = json.loads(place.rung("doctor", "--json").out)["findings"]
    assert any(one["kind"] == "ruling" and named in one["detail"] for one in found)


def test_rulings_of_an_earlier_version_count_once_a_person_has_signed_them(
    released: Place, tmp_path: Path
) -> None:
    place = copy_of(released, tmp_path)
    forget_all_signatures(place)
    assert place.rung("release", "create", "r2", "ladder.toml", "--by", "x").code == 3
    assert place.rung("rulings", "--sign").code == 2

    place.must("rulings", "--sign", "--by", "me", "--reason", "from before")

    place.must("release", "create", "r2", "ladder.toml", "--by", "me")
    listed = json.loads(place.must("rulings", "--json").out)
    assert listed["problems"] == []
    assert {one["seal"]["adopted"] for one in listed["rulings"]} == {"by me: from before"}
