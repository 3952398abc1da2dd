"""The user's cache gives back what was kept, and is done without where it cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from registry.user_cache import read_cached, user_cache, write_cached


def test_it_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache() == tmp_path / "rung"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_cache() == tmp_path / ".cache/rung"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "below/one.json"
    assert read_cached(path) is None
    write_cached(path, {"a": [1, None, "é"]})
    assert read_cached(path) == {"a": [1, None, "é"]}


@pytest.mark.parametrize("damaged", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_damaged_file_is_none(damaged: bytes, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_bytes(damaged)
    assert read_cached(path) is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_cached(tmp_path / "file/one.json", 1)
    assert read_cached(tmp_path / "file/one.json") is None
