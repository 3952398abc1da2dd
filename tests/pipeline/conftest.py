"""Workspaces with real checkpoints of random weights, driven through the real command line."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_checkpoint

LADDER = """
family = "tiny"
targets = ["cpu-x86-64-v3"]
toolchains = ["onnxruntime", "tvm"]

[[tier]]
checkpoint = "tiny-a"
recipes = ["fp32", "w4g32-rtn"]

[task.retrieval]
floor = [0.0]
margin_points = 60.0
max_samples = 20
"""


@dataclass(frozen=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Place:
    """A workspace to run commands in."""

    root: Path

    def rung(self, *arguments: str, timeout_s: float = 900.0, **environment: str) -> Ran:
        """Run `rung` as a user would."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "RUNG_MLFLOW_RUNS": "off", **environment},
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def must(self, *arguments: str, **environment: str) -> Ran:
        """Run `rung`, which must succeed."""
        ran = self.rung(*arguments, **environment)
        assert ran.code == 0, f"rung {' '.join(arguments)}: exit {ran.code}\n{ran.out}\n{ran.err}"
        return ran

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start `rung` in a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli.main", *arguments],
            cwd=self.root,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "RUNG_MLFLOW_RUNS": "off"},
        )

    def write_ladder(self, text: str = LADDER, name: str = "ladder.toml") -> Path:
        """Write a ladder file."""
        path = self.root / name
        path.write_text(text, encoding="utf-8")
        return path


def cells(place: Place) -> dict[str, dict[str, Any]]:
    """The cells of the matrix by their ids, as `rung matrix show --json` has them."""
    return {cell["id"]: cell for cell in json.loads(place.must("matrix", "show", "--json").out)["cells"]}


def copy_of(built: Place, tmp_path: Path, *, name: str = "copy") -> Place:
    """A copy of a workspace, to be changed."""
    root = tmp_path / name
    shutil.copytree(built.root, root, symlinks=True)
    _move_mlflow(built.root, root)
    return Place(root)


def _move_mlflow(old: Path, new: Path) -> None:
    """MLflow records absolute artifact locations; a copied workspace has others."""
    for path in (new / ".rung").rglob("*.db"):
        with sqlite3.connect(path) as connection:
            tables = [
                row[0] for row in connection.execute("select name from sqlite_master where type = 'table'")
            ]
            for table in tables:
                columns = [row[1] for row in connection.execute(f"pragma table_info('{table}')")]
                for column in columns:
                    if column in ("artifact_uri", "artifact_location", "source", "storage_location"):
                        connection.execute(
                            f'update "{table}" set {column} = replace({column}, ?, ?)', (str(old), str(new))
                        )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One tiny Llama."""
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny-a", seed=1)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty workspace."""
    place = Place(tmp_path / "work")
    place.root.mkdir()
    place.must("init", ".")
    return place


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Place:
    """A workspace with a built ladder; to be read, not to be changed."""
    return _build(tmp_path_factory.mktemp("built"), checkpoint)


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Place:
    """A workspace with release `r1` of all cells of a built ladder; to be read, not to be changed."""
    place = _build(tmp_path_factory.mktemp("released"), checkpoint)
    everything = [cell["id"] for cell in json.loads(place.must("matrix", "show", "--json").out)["cells"]]
    place.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it passed")
    assert everything
    place.must("release", "create", "r1", "ladder.toml", "--by", "me")
    return place


def _build(root: Path, checkpoint: Path) -> Place:
    place = Place(root)
    place.must("init", ".")
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder()
    place.must("build", "ladder.toml")
    return place
