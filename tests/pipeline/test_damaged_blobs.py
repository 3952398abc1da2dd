"""A build notices damaged and missing blobs: it makes them again, or names them and fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.pipeline.conftest import Place, cells, copy_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def blobs(place: Place) -> list[Path]:
    return sorted((place.root / ".rung" / "store" / "blobs" / "sha256").iterdir())


def damage(path: Path, how: int) -> None:
    """Damage a blob alone: MLflow's copy of a checkpoint may be another name of the same file."""
    data = path.read_bytes()
    path.unlink()
    match how:
        case 0:
            path.write_bytes(data[:-1] + b"\x00\x01")
        case 1:
            path.write_bytes(data[: len(data) // 2])
        case _:
            pass  # it stays away


def test_a_build_after_damage_to_every_blob_makes_what_was_there_again(
    released: Place, tmp_path: Path
) -> None:
    place = copy_of(released, tmp_path)
    before = cells(place)
    place.must("build", "ladder.toml")  # so that it has read them all once
    for number, path in enumerate(blobs(place)):
        damage(path, number % 3)

    again = place.must("build", "ladder.toml")

    assert "nothing to build" not in again.err
    assert "damaged blobs were removed" in again.err
    after = cells(place)
    assert {name: cell["artifact"] for name, cell in after.items()} == {
        name: cell["artifact"] for name, cell in before.items()
    }
    assert "nothing to build: 4 cells" in place.must("build", "ladder.toml").err
    place.must("doctor", "--repair")
    assert json.loads(place.must("doctor", "--json").out)["findings"] == []
    place.must("release", "verify", "r1")


@pytest.mark.parametrize("how", [0, 1, 2])
def test_one_damaged_scorecard_is_measured_again(built: Place, tmp_path: Path, how: int) -> None:
    place = copy_of(built, tmp_path)
    name, cell = next(iter(cells(place).items()))
    digest = cell["tasks"][0]["scorecard"].removeprefix("sha256:")
    damage(place.root / ".rung" / "store" / "blobs" / "sha256" / digest, how)

    again = place.must("build", "ladder.toml")

    assert f"done examine {name}" in again.err
    assert json.loads(place.must("doctor", "--json").out)["findings"] == []
    assert "nothing to build" in place.must("build", "ladder.toml").err


def test_a_blob_that_only_a_release_has_is_named_and_the_build_does_not_succeed(
    released: Place, tmp_path: Path
) -> None:
    place = copy_of(released, tmp_path)
    release = json.loads((place.root / ".rung" / "releases" / "r1" / "release.json").read_bytes())
    gone = next(one for one in release["cells"] if one["manifest"]["recipe"] == "w4g32-rtn")
    place.write_ladder(
        (place.root / "ladder.toml").read_text(encoding="utf-8").replace('"fp32", "w4g32-rtn"', '"fp32"')
    )
    digest = next(f["digest"] for f in gone["manifest"]["files"] if f["path"] == "weights.safetensors")
    damage(place.root / ".rung" / "store" / "blobs" / "sha256" / digest.removeprefix("sha256:"), 0)

    ran = place.rung("build", "ladder.toml")

    assert ran.code == 3
    assert "nothing to build" not in ran.err
    assert re.search(rf"lost: {digest} of `tiny-a/1:w4g32-rtn:[^`]+`.* is gone", ran.err)
