"""Fixtures: a folder with one task, and what is known of the installed lm-eval."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evals.checks.folder import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """A ladder's directory with a folder of one good task."""
    made = Folder(tmp_path)
    made.write()
    return made


@pytest.fixture(scope="session")
def known(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the names that lm-eval knows, filled once."""
    return tmp_path_factory.mktemp("known")
