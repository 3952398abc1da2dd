"""The reference pages are what `make reference` writes today, and name every variable that Rung reads."""

from __future__ import annotations

import ast
import importlib
import json
import tomllib
from pathlib import Path

import pytest

from pipeline.reference.contracts import ENVIRONMENT, ERROR_MODULES
from pipeline.reference.docstrings import attribute_docs
from pipeline.reference.write import DIRECTORY, ROOT, pages

PACKAGES = ("registry", "compilers", "evals", "matrices", "serving", "pipeline")

NOT_RUNGS = {"HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TVM_NUM_THREADS", "TVM_BIND_THREADS"}
"""Variables that Rung sets for a library and does not read."""


@pytest.mark.parametrize("name", sorted(pages()))
def test_a_page_is_current(name: str) -> None:
    assert (DIRECTORY / name).read_text(encoding="utf-8") == pages()[name], "run `make reference`"


def test_no_page_is_left_over() -> None:
    assert {path.name for path in DIRECTORY.iterdir()} == set(pages())


def test_a_page_depends_on_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert pages()["commands.md"] == (DIRECTORY / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "path",
    [ROOT / "pipeline/demo/ladder.toml", *sorted((ROOT / "examples/ladders").glob("*.toml"))],
    ids=lambda path: path.stem,
)
def test_the_schema_knows_the_keys_of_a_ladder(path: Path) -> None:
    schema = json.loads(pages()["ladder.schema.json"])
    ladder = tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(ladder) <= set(schema["properties"])
    assert any(set(choice["required"]) <= set(ladder) for choice in schema["anyOf"])


def test_every_variable_that_is_read_is_in_the_reference() -> None:
    read = {name for package in PACKAGES for path in (ROOT / package).rglob("*.py") for name in reads(path)}
    assert read - NOT_RUNGS <= set(ENVIRONMENT)


def test_errors_are_declared_where_the_reference_looks() -> None:
    known = {name for module in ERROR_MODULES for name in vars(importlib.import_module(module))}
    declared = {
        node.name
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id in known for base in node.bases)
        and node.name.endswith("Error")
    }
    assert declared <= known


def test_the_string_after_an_assignment_is_its_docstring() -> None:
    tree = ast.parse('A = 1\n"""One."""\nB: int = 2\n"""Two."""\nC = 3\n')
    assert attribute_docs(tree) == {"A": "One.", "B": "Two."}


def reads(path: Path) -> set[str]:
    """Names of environment variables that a file reads by a literal name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="get", value=ast.Attribute(attr="environ")),
                args=[ast.Constant(value=str(name)), *_],
            ):
                found.add(name)
            case ast.Subscript(
                value=ast.Attribute(attr="environ"), slice=ast.Constant(value=str(name)), ctx=ast.Load()
            ):
                found.add(name)
    return found
