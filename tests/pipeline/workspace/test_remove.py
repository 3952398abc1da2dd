"""`rung release remove` and `rung checkpoint remove`: what they refuse, free, leave and record."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path

from registry.mlflow import Checkpoints
from registry.workspace import find_workspace
from tests.pipeline.conftest import Place

WHO = ("--by", "me", "--reason", "too old")


def disk(place: Place) -> int:
    """Bytes of the workspace's store and of MLflow's files, each file counted once."""
    files = {
        path.stat().st_ino: path.stat().st_size
        for folder in ("store/blobs", "mlflow-artifacts")
        for path in (place.root / ".rung" / folder).rglob("*")
        if path.is_file()
    }
    return sum(files.values())


def test_a_release_is_not_removed_while_it_is_the_newest_or_a_node_has_it(published: Place) -> None:
    published.must("pull", "r1", "--task", "retrieval", "--min-tier", "1", "--out", "node")
    refused = published.rung("release", "remove", "r1", *WHO)
    assert refused.code == 8, refused.err
    assert "the node in `node` holds it" in refused.err
    assert "newest release of `tiny`" in refused.err
    published.must("release", "verify", "r1")
    report = json.loads(published.must("release", "remove", "r1", *WHO, "--force", "--json").out)
    assert report["removed"]
    assert len(report["dependants"]) == 2
    assert published.rung("release", "verify", "r1").code == 3
    assert json.loads(published.must("release", "list", "--json").out) == []
    again = published.rung("release", "remove", "r1", *WHO, "--force")
    assert again.code == 3
    assert "was removed by me" in again.err
    taken = published.rung("release", "create", "r1", "ladder.toml", "--by", "me")
    assert taken.code == 8
    published.must("release", "create", "r2", "ladder.toml", "--by", "me")
    with sqlite3.connect(published.root / ".rung/rung.db") as database:
        ((overridden,),) = database.execute("select overridden from rung_removal").fetchall()
    assert "the node in `node` holds it" in overridden
    published.must("doctor")


def test_an_older_release_goes_without_force_and_the_newer_one_still_verifies(published: Place) -> None:
    published.must("reject", "w4g32:tvm", "--by", "me", "--reason", "not that one")
    published.must("release", "create", "r2", "ladder.toml", "--by", "me")
    published.must("release", "remove", "r1", *WHO)
    published.must("release", "verify", "r2")
    published.must("doctor")


def test_a_killed_removal_of_a_release_is_finished_by_the_same_command(published: Place) -> None:
    directory = published.root / ".rung/releases/r1"
    shutil.copytree(directory, published.root / "kept")
    published.must("release", "remove", "r1", *WHO, "--force")
    shutil.copytree(
        published.root / "kept", directory
    )  # the record was written, the files were not removed yet
    published.must("release", "remove", "r1", *WHO, "--force")
    assert not directory.exists()
    # As after a kill at the very end: only blobs and files without their name are left, and the mark of it.
    shutil.copytree(published.root / "kept", directory.parent / ".r1.0.partial")
    orphan = find_workspace(published.root).store.add_bytes(b"held by the release alone")
    (published.root / ".rung/unclean").touch()
    assert published.rung("release", "remove", "r1", *WHO, "--force").code == 3
    assert not find_workspace(published.root).store.has(orphan.digest)
    assert list(directory.parent.iterdir()) == []
    published.must("doctor")


def test_a_checkpoint_that_a_release_was_built_from_is_not_removed(published: Place) -> None:
    refused = published.rung("checkpoint", "remove", "tiny-a", *WHO)
    assert refused.code == 8, refused.err
    assert "release `r1` was built from it (4 cells)" in refused.err
    assert "approved cells were built from it" in refused.err
    published.must("checkpoint", "show", "tiny-a/1")


def test_a_removed_checkpoint_frees_what_the_dry_run_said_and_leaves_its_cells(copied: Place) -> None:
    before = disk(copied)
    foreseen = json.loads(copied.must("checkpoint", "remove", "tiny-a", "--dry-run", "--json").out)
    assert disk(copied) == before
    done = json.loads(copied.must("checkpoint", "remove", "tiny-a", *WHO, "--json").out)
    assert done == foreseen | {"removed": True}
    assert disk(copied) == before - done["freed_bytes"]
    assert done["freed_bytes"] > 0
    assert json.loads(copied.must("checkpoint", "list", "--json").out) == []
    assert len(json.loads(copied.must("matrix", "show", "--json").out)["cells"]) == 4
    copied.must("doctor")


def test_a_parent_and_an_alias_are_named_before_a_checkpoint_goes(place: Place, checkpoint: Path) -> None:
    other = place.root / "child"
    shutil.copytree(checkpoint, other)
    (other / "generation_config.json").write_text("{}")
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "t", "--alias", "best")
    place.must("checkpoint", "add", str(other), "--name", "child", "--family", "t", "--parent", "tiny-a/1")
    refused = place.rung("checkpoint", "remove", "tiny-a", *WHO)
    assert refused.code == 8, refused.err
    assert "checkpoint `child/1` has it as its parent" in refused.err
    assert "alias `tiny-a@best`" in refused.err
    unsaid = place.rung("checkpoint", "remove", "child")
    assert unsaid.code == 2
    assert "--reason" in unsaid.err
    place.must("checkpoint", "remove", "child", *WHO)
    place.must("checkpoint", "remove", "tiny-a", *WHO, "--force")
    workspace = find_workspace(place.root)
    assert Checkpoints(uri=workspace.mlflow_uri, store=workspace.store).all() == []
    assert list(workspace.store.blobs.iterdir()) == []
