"""Atomic writes: whole or not at all, and nothing of a killed or failed writer stays."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from registry.atomic import (
    SUFFIX,
    abandoned,
    directory_lock,
    file_lock,
    scratch_directory,
    sweep,
    temporary_directory,
    temporary_file,
    write_atomically,
)
from registry.errors import RegistryError

pytestmark = pytest.mark.smoke


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_file_is_replaced_whole_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a longer content than the new one")
    write_atomically(path, b"new", mode=0o600)
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["file"]


def test_a_file_in_the_place_of_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for write in (
        lambda: write_atomically(tmp_path / "file/inside", b"x"),
        lambda: temporary_directory(tmp_path / "file/inside").__enter__(),
    ):
        with pytest.raises(RegistryError, match=r"cannot write `.*file/inside`"):
            write()


def test_a_directory_takes_its_name_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "below" / "target"
    with temporary_directory(target) as path:
        (path / "file").write_text("x")
        assert not target.exists()
    assert names(target) == ["file"]
    assert names(target.parent) == ["target"]


def test_a_directory_whose_making_fails_never_appears(tmp_path: Path) -> None:
    def fail() -> None:
        with temporary_directory(tmp_path / "target") as path:
            (path / "file").write_text("x")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    assert names(tmp_path) == []


def test_a_directory_replaces_an_empty_one_alone(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with temporary_directory(tmp_path / "empty") as path:
        (path / "file").write_text("x")
    with (
        pytest.raises(RegistryError, match="is not an empty directory"),
        temporary_directory(tmp_path / "empty") as path,
    ):
        (path / "other").write_text("x")
    assert names(tmp_path / "empty") == ["file"]
    assert names(tmp_path) == ["empty"]


def test_what_a_dead_process_left_is_swept_and_what_a_live_one_holds_is_not(tmp_path: Path) -> None:
    dead = [tmp_path / f".{name}.0{SUFFIX}" for name in ("a", "b")]
    dead[0].write_bytes(b"half")
    (dead[1] / "content").mkdir(parents=True)
    (tmp_path / "mine").write_text("x")
    with temporary_file(tmp_path, name="a") as (_, file), scratch_directory(tmp_path, name="b") as scratch:
        with directory_lock(tmp_path):
            assert abandoned(tmp_path) == dead
            assert abandoned(tmp_path, name="a") == dead[:1]
        sweep(tmp_path, name="a")
        assert not dead[0].exists()
        assert dead[1].exists()
        sweep(tmp_path)
        assert names(tmp_path) == sorted(["mine", file.name, scratch.parent.name])
    assert names(tmp_path) == ["mine"]


def test_a_temporary_file_that_was_renamed_stays(tmp_path: Path) -> None:
    with temporary_file(tmp_path, name="x") as (stream, path):
        stream.write(b"content")
        path.rename(tmp_path / "kept")
    assert names(tmp_path) == ["kept"]


def test_a_lock_is_held_by_one_at_a_time(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(_: int) -> None:
        for _ in range(20):
            with file_lock(tmp_path / "lock"):
                seen = int(counter.read_text())
                os.sched_yield()
                counter.write_text(str(seen + 1))

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(count, range(4)))
    assert counter.read_text() == "80"
