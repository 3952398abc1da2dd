"""Commands are found from their files: name, help line and order, without importing them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipeline.cli.discover import LAST, read_verb, verbs

pytestmark = pytest.mark.smoke


def test_the_way_of_a_checkpoint_is_the_order() -> None:
    names = list(verbs())
    way = ["init", "checkpoint", "build", "matrix", "approve", "release", "resolve", "pull", "serve"]
    assert [name for name in names if name in way] == way


@pytest.mark.parametrize("name", list(verbs()))
def test_a_command_has_a_help_line_that_fits_on_80_columns(name: str) -> None:
    verb = verbs()[name]
    spec = importlib.util.find_spec(verb.module)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).read_text().startswith(f'"""`rung {name}`: ')
    assert verb.summary[0].isupper()
    assert len(verb.summary) <= 62
    assert verb.order < LAST


def test_a_file_without_order_comes_last(tmp_path: Path) -> None:
    path = tmp_path / "say_hello.py"
    path.write_text('"""`rung say-hello`: greet somebody."""\nimport nothing_that_exists\n')
    verb = read_verb(path)
    assert (verb.name, verb.summary, verb.order) == ("say-hello", "Greet somebody", LAST)
