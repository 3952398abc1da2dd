"""Upkeep of the content store: what is wrong is found and mended, what nothing needs is collected."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.atomic import scratch_directory, temporary_file
from registry.errors import CorruptError
from registry.store import Store
from registry.upkeep import collect, repair, unused, verify

pytestmark = pytest.mark.smoke


def leftovers(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.name.endswith(".partial")]


def test_repair_removes_a_damaged_blob_and_the_artifacts_that_need_it_leave_the_index(store, make_manifest):
    manifest = make_manifest(store)
    other = store.put_artifact(make_manifest(store, data=b"other"))
    digest = store.put_artifact(manifest)
    path = store.path(manifest.files[0].digest)
    path.chmod(0o644)
    path.write_bytes(b"evil")
    assert repair(store)
    assert verify(store) == []
    assert not store.has_artifact(digest)
    assert store.artifacts() == [other]
    store.add_bytes(b"weights")
    assert store.put_artifact(manifest) == digest
    assert store.has_artifact(digest)


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"schemaVersion":2,"manifests":[{}]}'])
def test_a_damaged_index_is_reported_and_rebuilt_from_the_blobs(store, garbage, make_manifest):
    digest = store.put_artifact(make_manifest(store))
    store.index.path.write_bytes(garbage)
    with pytest.raises(CorruptError, match="index"):
        store.artifacts()
    with pytest.raises(CorruptError, match="index"):
        collect(store, keep=[], grace_s=0)
    assert [problem.kind for problem in verify(store)] == ["index"]
    repair(store)
    assert store.artifacts() == [digest]
    assert verify(store) == []


def test_collect_keeps_what_is_asked_for_with_all_its_files(store, make_manifest):
    kept, gone = make_manifest(store, data=b"kept"), make_manifest(store, data=b"gone")
    for manifest in (kept, gone):
        store.put_artifact(manifest)
    single = store.add_bytes(b"log")
    removed = collect(store, keep=[kept.digest, single.digest], grace_s=0)
    assert gone.digest in removed
    assert not store.has_artifact(gone.digest)
    assert store.has_artifact(kept.digest)
    assert store.has(single.digest)
    assert verify(store) == []


def test_collect_spares_what_was_just_added(store, make_manifest):
    store.put_artifact(make_manifest(store))
    before = sorted(store.blobs.iterdir())
    assert collect(store, keep=[]) == []
    assert sorted(store.blobs.iterdir()) == before


def test_repair_removes_what_a_killed_process_left(store):
    (store.ingest / ".blob.0.partial").write_bytes(b"half")
    (store.ingest / ".upload.0.partial/content").mkdir(parents=True)
    (store.root / ".index.json.0.partial").write_bytes(b"{")
    assert [problem.kind for problem in verify(store)] == ["leftover"] * 3
    repair(store)
    assert verify(store) == []


def test_a_writer_that_is_at_work_is_no_leftover(store):
    with temporary_file(store.ingest, name="blob"), scratch_directory(store.ingest, name="upload"):
        assert verify(store) == []
        repair(store)
        assert len(leftovers(store)) == 2
    assert not leftovers(store)


@settings(max_examples=25, deadline=None)
@given(kept=st.sets(st.integers(0, 3)))
def test_collect_removes_exactly_what_is_unused_and_leaves_a_sound_store(make_manifest, kept):
    with TemporaryDirectory() as place:
        store = Store.create(Path(place) / "store")
        digests = [store.put_artifact(make_manifest(store, data=b"%d" % number)) for number in range(4)]
        store.add_bytes(b"a blob of nobody")
        keep = [digests[number] for number in kept]
        expected = unused(store, keep=keep)
        assert expected
        assert collect(store, keep=keep, grace_s=0) == expected
        assert unused(store, keep=keep) == []
        assert store.artifacts() == sorted(keep, key=digests.index)
        assert verify(store) == []


def test_repair_of_what_was_repaired_finds_nothing(store, make_manifest):
    manifest = make_manifest(store)
    store.put_artifact(manifest)
    store.path(manifest.files[0].digest).unlink()
    assert [problem.kind for problem in repair(store)] == ["missing"]
    assert repair(store) == []


def test_a_file_that_is_no_blob_is_reported(store):
    (store.blobs / "notes.txt").write_text("mine")
    assert [(problem.kind, Path(problem.subject).name) for problem in verify(store)] == [
        ("corrupt", "notes.txt")
    ]
