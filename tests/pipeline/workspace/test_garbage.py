"""`rung gc`: what goes, what stays and why, at the real command line; killed and beside a running build."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.workspace.locks import writing
from registry.store import Store
from registry.workspace import find_workspace
from tests.pipeline.conftest import LADDER, Place, copy_of

FEWER = LADDER.replace('"fp32", "w4g32-rtn"', '"fp32"')
"""The ladder without one of its recipes."""


def gc(place: Place, *arguments: str) -> dict[str, Any]:
    return json.loads(place.must("gc", "--grace", "0", "--json", *arguments).out)


def blobs(place: Place) -> set[str]:
    return {path.name for path in (place.root / ".rung/store/blobs/sha256").iterdir()}


def artifacts(place: Place) -> dict[str, str]:
    cells = json.loads(place.must("matrix", "show", "--json").out)["cells"]
    return {cell["id"]: cell["artifact"] for cell in cells}


def shares(report: dict[str, Any], which: str) -> dict[str, Any]:
    return {share["kind"]: share for share in report[which]}


def size_of(place: Place) -> int:
    return sum(path.stat().st_size for path in (place.root / ".rung/store/blobs/sha256").iterdir())


def test_a_dry_run_removes_nothing_and_says_what_the_real_run_frees(copied: Place) -> None:
    copied.write_ladder(FEWER)
    before, bytes_before = blobs(copied), size_of(copied)
    foreseen = gc(copied, "ladder.toml", "--dry-run")
    assert blobs(copied) == before
    done = gc(copied, "ladder.toml")
    assert done["removed"] == foreseen["would_remove"] != []
    assert done["kept"] == foreseen["kept"]
    assert size_of(copied) == bytes_before - done["freed_bytes"]
    copied.must("doctor")


def test_a_recipe_that_left_the_ladder_goes_and_the_rest_needs_no_build(copied: Place) -> None:
    copied.write_ladder(FEWER)
    removed = shares(gc(copied, "ladder.toml"), "removed")
    dropped = set(removed["artifacts"]["subjects"])
    assert dropped == {f"tiny-a/1:w4g32-rtn:cpu-x86-64-v3:{name}" for name in ("onnxruntime", "tvm")}
    assert "quantize" in removed["stage outputs"]["subjects"]
    assert "nothing to build" in copied.must("build", "ladder.toml").err
    refused = copied.rung("approve", "w4g32:tvm", "--by", "me", "--reason", "why")
    assert refused.code == 8, refused.err
    assert "not in the store any more" in refused.err


def test_a_recipe_that_comes_back_is_built_again_to_the_same_artifacts(copied: Place) -> None:
    before = {
        c["id"]: c["artifact"] for c in json.loads(copied.must("matrix", "show", "--json").out)["cells"]
    }
    copied.write_ladder(FEWER)
    gc(copied, "ladder.toml")
    copied.write_ladder(LADDER)
    assert "nothing to build" not in copied.must("build", "ladder.toml").err
    after = {c["id"]: c["artifact"] for c in json.loads(copied.must("matrix", "show", "--json").out)["cells"]}
    assert after == before
    assert all(Store(copied.root / ".rung/store").has_artifact(artifact) for artifact in after.values())


def test_released_and_approved_cells_stay_whatever_the_ladders_say(published: Place) -> None:
    published.write_ladder(FEWER)
    report = gc(published, "ladder.toml")
    assert "artifacts" not in shares(report, "removed")
    assert shares(report, "kept")["releases"]["subjects"] == ["r1"]
    assert len(shares(report, "kept")["approved cells"]["subjects"]) == 4
    published.must("release", "verify", "r1")
    published.must("doctor")


def test_without_ladders_only_what_nothing_refers_to_goes(copied: Place) -> None:
    orphan = Store(copied.root / ".rung/store").add_bytes(b"of nobody" * 100)
    copied.write_ladder(FEWER)
    report = gc(copied)
    assert [(share["kind"], share["count"]) for share in report["removed"]] == [("blobs", 1)]
    assert report["freed_bytes"] == orphan.size_bytes
    assert "nothing to build" in copied.must("build", "ladder.toml").err


def test_young_blobs_stay_for_the_grace_period(copied: Place) -> None:
    young = Store(copied.root / ".rung/store").add_bytes(b"not yet recorded")
    report = json.loads(copied.must("gc", "--json").out)
    assert report["removed"] == []
    assert shares(report, "kept")["new blobs"]["count"] == 1
    assert Store(copied.root / ".rung/store").has(young.digest)


def test_records_stay_while_the_ladder_of_another_family_is_not_named(copied: Place) -> None:
    with sqlite3.connect(copied.root / ".rung/rung.db") as database:
        database.execute(
            "insert into rung_cell select 'other' || substr(id, 5), 'other', checkpoint, checkpoint_digest,"
            " tier, recipe, target, toolchain, 'declared', '', null, null, null, payload, null, updated_at"
            " from rung_cell where recipe = 'fp32' and toolchain = 'tvm'"
        )
    copied.write_ladder(FEWER)
    assert "stage outputs" not in shares(gc(copied, "ladder.toml"), "removed")


def test_collection_waits_for_whoever_writes_and_a_dry_run_does_not(copied: Place) -> None:
    with writing(find_workspace(copied.root)):
        refused = copied.rung("gc")
        assert refused.code == 2, refused.err
        assert "something is being written" in refused.err
        copied.must("gc", "--dry-run")


def test_the_report_for_people_names_sizes_and_reasons(published: Place) -> None:
    published.write_ladder(FEWER)
    ran = published.must("gc", "ladder.toml", "--dry-run", "--grace", "0")
    assert "would remove" in ran.out
    assert "releases hold them: r1" in ran.out
    assert "would be freed" in ran.err


def moments(place: Place) -> Iterator[float]:
    began = time.monotonic()
    place.must("gc", "ladder.toml", "--dry-run", "--grace", "0")
    whole = time.monotonic() - began
    yield from (whole * part for part in (0.85, 0.95, 1.05))


@pytest.mark.slow
def test_a_collection_that_is_killed_is_finished_by_the_next_one(copied: Place, tmp_path: Path) -> None:
    copied.write_ladder(FEWER)
    for number, moment in enumerate(moments(copied)):
        place = copy_of(copied, tmp_path, name=f"killed-{number}")
        process = place.start("gc", "ladder.toml", "--grace", "0")
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if number % 2:
            gc(place, "ladder.toml")
            place.must("doctor")
        assert "nothing to build" in place.must("build", "ladder.toml").err
        place.must("doctor")
