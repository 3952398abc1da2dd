"""What somebody wrote into the database or beside it is held against the scorecards, and measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from registry.digest import canonical_json
from tests.pipeline.conftest import Place, cells, copy_of
from tests.pipeline.test_rulings import edit

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def said(accuracy: float) -> str:
    """As a document in the database says it."""
    return f'"accuracy":{accuracy}'


def better_row(place: Place, task: dict[str, Any]) -> None:
    """The records of the evaluation say another accuracy than its scorecard."""
    replaced = f"'{said(task['accuracy'])}', '{said(0.99)}'"
    edit(
        place,
        f"UPDATE rung_stage SET output = replace(output, {replaced}) "
        f"WHERE output LIKE '%{task['scorecard']}%'",
    )


def better_card(place: Place, task: dict[str, Any]) -> None:
    """The records name another scorecard, in which every sample is right."""
    blobs = place.root / ".rung" / "store" / "blobs" / "sha256"
    card = json.loads((blobs / task["scorecard"].removeprefix("sha256:")).read_bytes())
    card["outcomes"] = [one | {"value": 1.0} for one in card["outcomes"]]
    data = canonical_json(card)
    name = hashlib.sha256(data).hexdigest()
    (blobs / name).write_bytes(data)
    edit(place, f"UPDATE rung_stage SET output = replace(output, '{task['scorecard']}', 'sha256:{name}')")


@pytest.mark.parametrize("forge", [better_row, better_card])
def test_a_forged_record_is_named_and_the_next_build_measures_again(
    built: Place, tmp_path: Path, forge: Callable[[Place, dict[str, Any]], None]
) -> None:
    place = copy_of(built, tmp_path)
    name, before = next(iter(cells(place).items()))

    forge(place, before["tasks"][0])

    found = json.loads(place.rung("doctor", "--json").out)["findings"]
    assert any(one["kind"] == "record" and "its scorecard gives" in one["detail"] for one in found)
    assert f"done examine {name}" in place.must("build", "ladder.toml").err
    (after,) = cells(place)[name]["tasks"]
    assert after["accuracy"] == before["tasks"][0]["accuracy"]
    place.must("doctor", "--repair")
    assert json.loads(place.must("doctor", "--json").out)["findings"] == []


def test_a_cell_that_was_edited_cannot_be_approved(built: Place, tmp_path: Path) -> None:
    place = copy_of(built, tmp_path)
    name, cell = next(iter(cells(place).items()))
    replaced = f"'{said(cell['tasks'][0]['accuracy'])}', '{said(0.99)}'"
    edit(place, f"UPDATE rung_cell SET payload = replace(payload, {replaced})")
    ran = place.rung("approve", name, "--by", "x", "--reason", "y", "--waive", "z")
    assert ran.code == 3
    assert "is not what its evidence shows" in ran.err
