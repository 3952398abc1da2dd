"""A workspace with a small built ladder, a kit of it, and what a node without a workspace made of the kit."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from matrices.cells.cell import Cell
from matrices.ledger import query
from matrices.ledger.db import open_database
from pipeline.evidence.document import EvidenceFile, read_report
from registry.signing import generate_keys
from registry.workspace import Workspace, find_workspace
from tests.pipeline.conftest import Place, Ran

LADDER = """
family = "tiny"
targets = ["cpu-x86-64-v3", "npu-ascend910b"]
toolchains = ["onnxruntime"]

[[tier]]
checkpoint = "tiny-a"
recipes = ["fp32", "w4g32-rtn"]

[task.retrieval]
floor = [0.0]
margin_points = 60.0
max_samples = 20
"""
TARGET = "cpu-x86-64-v3"
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Box:
    """A machine that is no build machine: a directory and a home of its own, and no workspace."""

    root: Path

    def rung(self, *arguments: str, **environment: str) -> Ran:
        """Run `rung` there."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.cli.main", *arguments],
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=600,
            env={
                **os.environ,
                "HOME": str(self.root),
                "HF_HUB_OFFLINE": "1",
                "PYTHONPATH": str(ROOT),
                **environment,
            },
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Build:
    """The build machine's side."""

    place: Place
    kit: Path

    @property
    def workspace(self) -> Workspace:
        return find_workspace(self.place.root)

    def cells(self) -> list[Cell]:
        """As the matrix holds them now."""
        database = open_database(self.workspace.database_url)
        try:
            return query.cells(database)
        finally:
            database.close()


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Build:
    """A workspace whose cells were built, and never run."""
    root = tmp_path_factory.mktemp("evidence")
    place = Place(root / "work")
    place.root.mkdir()
    place.must("init", ".")
    place.must("checkpoint", "add", str(checkpoint), "--name", "tiny-a", "--family", "tiny")
    place.write_ladder(LADDER)
    place.must("build", "ladder.toml")
    kit = root / "kit"
    place.must("evidence", "export", "ladder.toml", "--target", TARGET, "--out", str(kit))
    return Build(place, kit)


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory, build: Build) -> Box:
    """The node, which was given the build machine's public key, and has a key of its own."""
    box = Box(tmp_path_factory.mktemp("node"))
    (box.root / "builder.pub").write_bytes(build.workspace.public_key.read_bytes())
    generate_keys(box.root / "node.key", box.root / "node.pub")
    return box


@pytest.fixture(scope="session")
def evidence_file(build: Build, box: Box) -> Path:
    """What the node measured."""
    ran = run_kit(box, build.kit, "evidence.json")
    assert ran.code == 0, ran.err
    return box.root / "evidence.json"


@pytest.fixture
def report(evidence_file: Path, box: Box) -> EvidenceFile:
    """The same, read."""
    return read_report(evidence_file, trusted=[box.root / "node.pub"])[0]


def run_kit(box: Box, kit: Path, out: str, *options: str) -> Ran:
    """`rung evidence run` on the node."""
    return box.rung(
        "evidence", "run", "--target", TARGET, "--kit", str(kit), "--trusted", "builder.pub",
        "--key", "node.key", "--out", out, *options,
    )  # fmt: skip
