"""README stays true: its commands and options exist, its links lead somewhere, its ladder is one."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest
import typer

from pipeline.cli.discover import verbs
from registry.ladder import Ladder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = [line.split("#")[0].strip() for line in joined.splitlines()]
    return [line[line.index("rung ") :] for line in lines if re.match(r"(\.venv/bin/)?rung ", line)]


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_readme_has_its_verb_and_options(line: str) -> None:
    words = shlex.split(line.split("&&")[0])
    command = typer.main.get_command(importlib.import_module(verbs()[words[1]].module).app)
    rest = words[2:]
    if subcommands := getattr(command, "commands", None):
        command = subcommands[rest.pop(0)]
    known = {name for parameter in command.params for name in getattr(parameter, "opts", [])}
    for word in rest:
        if word.startswith("--"):
            assert word in known, f"{line}: no option {word}"


def test_there_are_commands_to_check() -> None:
    assert len(commands()) > 8


def test_links_lead_to_files() -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", README)
    files = [target for target in targets if not target.startswith("http")]
    assert files
    assert [target for target in files if not (ROOT / target).exists()] == []


def test_the_ladder_is_one() -> None:
    import tomllib

    (block,) = blocks("toml")
    assert Ladder.model_validate(tomllib.loads(block)).tier
