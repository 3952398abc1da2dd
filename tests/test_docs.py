"""The documents stay true: paths and links exist, commands have their options, ladders can be read."""

from __future__ import annotations

import functools
import importlib
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from compilers.backend import backends
from pipeline.cli.discover import verbs
from registry.ladder import Ladder

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "examples", "benchmarks")
PACKAGES = (
    "registry", "compilers", "evals", "matrices", "serving", "pipeline", "benchmarks", "tests", "docs",
)  # fmt: skip
HISTORY = {"CHANGELOG.md"}
"""Speaks of files of earlier versions too."""
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md")))
    if path.name not in HISTORY
)


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[tuple[str, str]]:
    """Page and command line of every `rung …` in a shell block, and behind a prompt in a transcript."""
    found = []
    for page in PAGES:
        typed = re.findall(r"^\$ (.*?)(?: &)?$", "\n".join(blocks(text_of(page), "text")), flags=re.MULTILINE)
        joined = "\n".join([*blocks(text_of(page), "sh"), *typed]).replace("\\\n", " ")
        for line in joined.splitlines():
            for part in line.split("#")[0].split("&&"):
                if match := re.match(r"\s*(?:\w+=\S+ )*(?:\.venv/bin/)?(rung .*)", part):
                    found.append((named(page), match[1].strip()))
    return found


@functools.cache
def options_of(*names: str) -> set[str]:
    command = typer.main.get_command(importlib.import_module(verbs()[names[0]].module).app)
    for name in names[1:]:
        command = command.commands[name]
    return {name for parameter in command.params for name in getattr(parameter, "opts", [])}


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_has_its_verb_and_options(page: str, line: str) -> None:
    words = shlex.split(line)
    names = [words[1]]
    command = typer.main.get_command(importlib.import_module(verbs()[words[1]].module).app)
    if hasattr(command, "commands"):
        names.append(words[2])
    known = options_of(*names)
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in known, f"{page}: `{line}`: no option {word}"


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 15


def links(page: Path) -> list[str]:
    found = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page))
    return [target for target in found if not target.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


def test_the_readme_has_links_to_check() -> None:
    assert len(links(ROOT / "README.md")) > 10


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths_that_are_named_exist(page: Path) -> None:
    packages = "|".join(PACKAGES)
    for path in re.findall(rf"`((?:{packages})/[\w./-]*)`", text_of(page)):
        assert "NAME" in path or (ROOT / path).exists(), f"`{path}` is not there"


def test_the_ladder_in_the_readme_can_be_read() -> None:
    (block,) = blocks(text_of(ROOT / "README.md"), "toml")
    assert Ladder.model_validate(tomllib.loads(block)).tier


def test_the_answer_in_the_readme_is_what_is_printed() -> None:
    readme = text_of(ROOT / "README.md")
    [command] = [line for page, line in commands() if page == "README.md" and "frankfurt" in line]
    arguments = shlex.split(command)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.cli.main", *arguments],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    shown = next(block for block in blocks(readme, "text") if block.startswith("allow: "))
    printed = iter(done.stdout.splitlines())
    for line in shown.splitlines():
        assert line == "  …" or line in printed, line


def test_every_page_of_the_docs_is_in_an_index() -> None:
    for folder in ("docs", "docs/how-to", "docs/decisions"):
        index = text_of(ROOT / folder / "README.md")
        pages = {page.name for page in (ROOT / folder).glob("*.md")} - {"README.md"}
        assert {page for page in pages if f"]({page})" not in index} == set()


def test_the_table_of_toolchains_has_every_backend() -> None:
    table = text_of(ROOT / "docs/silicon.md")
    pages = {Path(backend.page) for backend in backends()}
    assert {page for page in pages if not (ROOT / page).is_file()} == set()
    ours = {page.relative_to("docs") for page in pages if page.is_relative_to("docs")}
    assert {page for page in ours if f"]({page})" not in table} == set()


def test_the_design_fits_on_a_page() -> None:
    text = text_of(ROOT / "docs/design.md")
    assert len(text.splitlines()) <= 70
    assert len(text.encode()) <= 6000
