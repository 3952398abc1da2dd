"""Paths of SQLite files as URLs, held against SQLAlchemy."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url

from registry.sqlite_url import below, sqlite_path, sqlite_url

NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12
).filter(lambda name: name not in (".", ".."))


@given(names=st.lists(NAMES | st.sampled_from(["a?b", "%20", "a%3Fb", "?uri=true", "#", "a b"]), min_size=1))
def test_sqlalchemy_finds_the_file_behind_the_url_of_any_path(names: list[str]) -> None:
    path = Path("/", *names)
    url = sqlite_url(path)
    if "\n" not in url:  # SQLAlchemy's pattern ends at a line feed
        assert make_url(url).database == str(path)
    assert sqlite_path(url) == path


def test_ordinary_paths_stand_in_their_url_as_they_are() -> None:
    assert sqlite_url(Path("/srv/team a/é#1/x.db")) == "sqlite:////srv/team a/é#1/x.db"


def test_options_are_kept_and_are_no_part_of_the_path() -> None:
    url = sqlite_url(Path("/a?b/x.db"), query="timeout=5")
    assert sqlite_path(url) == Path("/a?b/x.db")
    assert make_url(url).query == {"timeout": "5"}


@pytest.mark.parametrize(
    ("url", "placed"),
    [
        ("sqlite:///.rung/x.db", "sqlite:////team%3F/.rung/x.db"),
        ("sqlite:////abs/x.db?timeout=5", "sqlite:////abs/x.db?timeout=5"),
        ("sqlite:///a%3Fb.db", "sqlite:////team%3F/a%3Fb.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("sqlite:///file:x.db?uri=true", "sqlite:///file:x.db?uri=true"),
        ("postgresql://user@host/base", "postgresql://user@host/base"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
    ],
)
def test_only_relative_files_are_placed_in_the_directory(url: str, placed: str) -> None:
    assert below(url, root=Path("/team?")) == placed
