"""Completion of commands, options and names of the workspace, as shells ask for it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.main import run
from pipeline.cli.names import COMPLETE_VARIABLE, cell_names, checkpoint_names, release_names
from registry.workspace import Workspace, init_workspace

ROOT = Path(__file__).parents[3]
HOSTILE = ("$(touch pwned)", "`id`", "a b", "x;rm", "'q'", '"q"', "a\nb", "\x1b[31m", "ä")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    made = init_workspace(tmp_path)
    monkeypatch.chdir(tmp_path)
    return made


def complete(
    line: str, *, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], shell: str = "bash"
) -> list[str]:
    """What `rung` answers a shell whose command line is this, with the cursor at its end."""
    words = line.split(" ")
    monkeypatch.setenv(COMPLETE_VARIABLE, f"complete_{shell}")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    monkeypatch.setattr(sys, "argv", ["rung"])
    capsys.readouterr()
    assert run() == 0
    said = capsys.readouterr()
    assert said.err == ""
    return said.out.splitlines()


def put_cells(workspace: Workspace, *ids: str) -> None:
    with sqlite3.connect(workspace.database_url.removeprefix("sqlite:///")) as database:
        database.execute("create table rung_cell (id text primary key)")
        database.executemany("insert into rung_cell values (?)", [(one,) for one in ids])


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rung mat", ["matrix"]),
        ("rung matrix ex", ["explain", "export"]),
        ("rung build --targ", ["--target"]),
        ("rung build --executor ", ["local", "ray"]),
        ("rung matrix show --target cpu-aarch64-n", ["cpu-aarch64-neoverse-n1"]),
        ("rung completion ", ["bash", "zsh", "fish"]),
    ],
)
def test_commands_options_and_closed_sets_are_completed(line, expected, monkeypatch, capsys) -> None:
    assert complete(line, monkeypatch=monkeypatch, capsys=capsys) == expected


def test_a_line_that_is_wrong_already_gets_no_error_on_the_terminal(monkeypatch, capsys) -> None:
    complete("rung nothing ", monkeypatch=monkeypatch, capsys=capsys)


def test_every_command_is_offered_in_every_shell(monkeypatch, capsys) -> None:
    from pipeline.cli.discover import verbs

    bash = complete("rung ", monkeypatch=monkeypatch, capsys=capsys)
    assert bash == list(verbs())
    for shell in ("zsh", "fish"):
        said = "\n".join(complete("rung ", monkeypatch=monkeypatch, capsys=capsys, shell=shell))
        assert all(name in said for name in verbs()), shell


def test_names_of_the_workspace_are_completed(workspace, monkeypatch, capsys) -> None:
    put_cells(workspace, "mid/1:fp32:cpu-x86-64-v3:tvm", "small/1:fp32:cpu-x86-64-v3:tvm")
    (workspace.releases / "2026-11").mkdir(parents=True)
    asked = {"monkeypatch": monkeypatch, "capsys": capsys}
    assert complete("rung matrix explain mid/1:f", **asked) == ["mid/1:fp32:cpu-x86-64-v3:tvm"]
    assert complete("rung approve s", **asked) == ["small/1:fp32:cpu-x86-64-v3:tvm"]
    assert complete("rung release verify 20", **asked) == ["2026-11"]


def test_no_name_can_make_a_shell_do_anything(workspace) -> None:
    put_cells(workspace, "good/1:fp32:t:tvm", *HOSTILE)
    for name in HOSTILE:
        (workspace.releases / name.replace("/", "")).mkdir(parents=True)
    assert cell_names("") == ["good/1:fp32:t:tvm"]
    assert release_names("") == []


def test_without_a_workspace_or_with_a_damaged_one_there_are_no_names_and_no_error(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [names("") for names in (cell_names, checkpoint_names, release_names)] == [[], [], []]
    workspace = init_workspace(tmp_path)
    Path(workspace.database_url.removeprefix("sqlite:///")).write_bytes(b"not a database" * 100)
    Path(workspace.mlflow_uri.removeprefix("sqlite:///")).write_bytes(b"not a database" * 100)
    assert [names("") for names in (cell_names, checkpoint_names, release_names)] == [[], [], []]
    (tmp_path / "rung.toml").write_text("not TOML [")
    assert cell_names("") == []


def test_completion_imports_neither_database_nor_frameworks(tmp_path: Path) -> None:
    init_workspace(tmp_path)
    program = (
        "import sys; from pipeline.cli.main import run; sys.argv = ['rung']; run();"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & "
        "{'torch', 'mlflow', 'sqlalchemy', 'transformers', 'tvm', 'onnxruntime', 'lm_eval'}))"
    )
    environment = {
        **os.environ, COMPLETE_VARIABLE: "complete_bash", "COMP_WORDS": "rung\nmatrix\nexplain\n",
        "COMP_CWORD": "3", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_scripts_are_of_their_shells(shell, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["rung"])
    assert run(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert f"{COMPLETE_VARIABLE}=complete_{shell}" in script
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "script").write_text(script)
    subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_completes_the_id_of_a_cell_through_its_colons(workspace, tmp_path) -> None:
    put_cells(workspace, "mid/1:fp32:cpu-x86-64-v3:tvm", "mid/1:fp32:cpu-x86-64-v3:onnxruntime")
    command = tmp_path / "bin" / "rung"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m pipeline.cli.main "$@"\n')
    command.chmod(0o755)
    # Words as readline gives them: split at the characters of COMP_WORDBREAKS that the script left.
    asked = (
        'eval "$(rung completion bash)"; [[ $COMP_WORDBREAKS == *:* ]] && exit 1;'
        "COMP_WORDS=(rung matrix explain mid/1:fp32:cpu-x86-64-v3:t) COMP_CWORD=3;"
        '_rung_completion rung; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{command.parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "--norc", "-c", asked], cwd=workspace.root, env=environment, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["mid/1:fp32:cpu-x86-64-v3:tvm"]
