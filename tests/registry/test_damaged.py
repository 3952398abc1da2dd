"""Damaged blobs are found at the next look, and what nobody touched is not read again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from registry.damaged import CHECKED_NAME, remove_damaged
from registry.store import Store

pytestmark = pytest.mark.smoke


def _overwrite(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)


def _overwrite_and_set_the_time_back(path: Path) -> None:
    before = path.stat()
    _overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def _truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 1)


def _replace_by_another_file(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(b"other bytes")
    other.replace(path)


@pytest.mark.parametrize(
    "damage", [_overwrite, _overwrite_and_set_the_time_back, _truncate, _replace_by_another_file]
)
@pytest.mark.parametrize("was_checked", [False, True])
def test_a_blob_without_its_digest_is_removed(
    store: Store, damage: Callable[[Path], None], was_checked: bool
) -> None:
    good, bad = store.add_bytes(b"a good blob").digest, store.add_bytes(b"a blob to damage").digest
    if was_checked:
        assert remove_damaged(store) == []
    damage(store.path(bad))
    assert remove_damaged(store) == [bad]
    assert not store.has(bad)
    assert store.read_bytes(good) == b"a good blob"
    assert remove_damaged(store) == []


def test_something_else_in_the_place_of_a_blob_is_reported_and_left_for_a_person(store: Store) -> None:
    digest = store.add_bytes(b"a blob").digest
    path = store.path(digest)
    path.unlink()
    os.mkfifo(path)
    assert remove_damaged(store) == remove_damaged(store) == [digest]


def test_what_was_checked_and_not_touched_since_is_not_read_again(store: Store) -> None:
    digest = store.add_bytes(b"a blob").digest
    remove_damaged(store)
    read_at = store.path(digest).stat().st_ctime_ns
    record = (store.root / CHECKED_NAME).stat().st_mtime_ns
    store.path(digest).chmod(0o000)  # changes ctime: it has to be read once more
    remove_damaged(store)
    assert (store.root / CHECKED_NAME).stat().st_mtime_ns > record
    record = (store.root / CHECKED_NAME).stat().st_mtime_ns
    remove_damaged(store)
    assert (store.root / CHECKED_NAME).stat().st_mtime_ns == record
    assert store.path(digest).stat().st_ctime_ns > read_at


@pytest.mark.parametrize("garbage", [b"", b"{", b"[]", b'{"a":1}'])
def test_a_record_that_cannot_be_read_is_made_anew(store: Store, garbage: bytes) -> None:
    digest = store.add_bytes(b"a blob").digest
    remove_damaged(store)
    (store.root / CHECKED_NAME).write_bytes(garbage)
    _overwrite(store.path(digest))
    assert remove_damaged(store) == [digest]
