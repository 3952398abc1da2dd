"""Copies of a workspace with real cells, which a test may change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.conftest import Place, copy_of


@pytest.fixture
def copied(built: Place, tmp_path: Path) -> Place:
    """A copy of a workspace with evaluated cells, none approved."""
    return copy_of(built, tmp_path)


@pytest.fixture
def published(copied: Place) -> Place:
    """The same with all cells approved and in release `r1`."""
    copied.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it passed")
    copied.must("release", "create", "r1", "ladder.toml", "--by", "me")
    return copied
