"""The shape of a build: its nodes, what each needs, and what becomes of a cell whose needs failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from matrices.ledger.build_records import BuildRecord
from pipeline.build.cell_progress import CellProgress
from pipeline.build.graph import BuildNode
from pipeline.build.nodes import StopAfter, make_nodes
from pipeline.build.plan import BuildPlan, PlannedCell
from pipeline.build.plan_records import PlanRecords
from pipeline.build.records import Records
from pipeline.executors.interface import Failure, Work
from pipeline.stages.export import ExportRequest
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import digest_value
from registry.errors import NotFoundError
from registry.ladder import read_ladder
from registry.recipe import parse_recipe
from registry.store import Store
from registry.target import find_target

LADDER = """
family = "tiny"
targets = ["cpu-x86-64-v3"]
toolchains = ["tvm"]

[[tier]]
checkpoint = "a"
recipes = ["w4g32-rtn", "w4g32-gptq"]

[[tier]]
checkpoint = "b"
recipes = ["w4g32-rtn"]

[task.retrieval]
floor = [0.0, 0.0]
margin_points = 60.0
"""
FAILURE = Failure("build", "it broke", "mend it", 4)


class NoRecords:
    """Neither a database nor a store holds anything."""

    def find_stage(self, key: str) -> BuildRecord | None:
        return None

    def has(self, digest: str) -> bool:
        return False

    def read_bytes(self, digest: str) -> bytes:
        raise NotFoundError(f"no blob {digest}", hint="there is none")


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(
        name=name,
        version="1",
        digest=digest_value(name),
        files=(FileEntry(path="config.json", digest=digest_value(name), size_bytes=2),),
        family="tiny",
        architecture="LlamaForCausalLM",
        parameters=1000,
        licence="unknown",
        add_bos=False,
    )


class Built:
    """The nodes of the ladder's plan, with what they said of cells."""

    def __init__(self, folder: Path, stop_after: StopAfter) -> None:
        (folder / "ladder.toml").write_text(LADDER, encoding="utf-8")
        a, b = checkpoint("a"), checkpoint("b")
        target = find_target("cpu-x86-64-v3")
        cells = tuple(
            PlannedCell(each, tier, parse_recipe(recipe), target, "tvm")
            for each, tier, recipe in ((a, 1, "w4g32-rtn"), (a, 1, "w4g32-gptq"), (b, 2, "w4g32-rtn"))
        )
        plan = BuildPlan(read_ladder(folder / "ladder.toml"), folder, (a, b), cells)
        tasks = {"retrieval": digest_value("retrieval")}
        records = Records(NoRecords(), NoRecords())
        self.cells: list[tuple[CellProgress, Failure | None]] = []
        made = make_nodes(
            PlanRecords(plan, records, chip="a chip", calibration=None, tasks=tasks),
            store=Store.create(folder / "store"),
            timeout_s=1.0,
            on_cell=lambda progress, failure: self.cells.append((progress, failure)),
            toolchain_version=lambda name: "1",
            stop_after=stop_after,
        )
        self.nodes: dict[str, BuildNode] = {node.name: node for node in made}


def named(cell: str, kind: str = "examine") -> str:
    return f"{kind} {cell}:cpu-x86-64-v3:tvm"


def test_a_node_needs_those_whose_outputs_its_stages_need(tmp_path: Path) -> None:
    nodes = Built(tmp_path, "evaluated").nodes
    assert nodes["export a/1"].needs == ()
    assert nodes["reference a/1"].needs == ("export a/1",)
    assert nodes["quantize a/1:w4g32-rtn"].needs == ("export a/1",)
    assert set(nodes[named("a/1:w4g32-rtn", "lower")].needs) == {"export a/1", "quantize a/1:w4g32-rtn"}
    assert set(nodes[named("a/1:w4g32-rtn")].needs) == {
        named("a/1:w4g32-rtn", "lower"),
        "quantize a/1:w4g32-rtn",
        "reference a/1",
        "reference b/1",
    }


def test_cells_of_one_layout_share_a_lowering(tmp_path: Path) -> None:
    nodes = Built(tmp_path, "evaluated").nodes
    assert named("a/1:w4g32-rtn", "lower") in nodes[named("a/1:w4g32-gptq", "lower")].needs
    assert not any(need.startswith("lower") for need in nodes[named("b/1:w4g32-rtn", "lower")].needs)


def test_a_build_that_stops_at_artifacts_evaluates_no_reference(tmp_path: Path) -> None:
    nodes = Built(tmp_path, "built").nodes
    assert not any(name.startswith("reference") for name in nodes)
    assert not any(need.startswith("reference") for node in nodes.values() for need in node.needs)


@pytest.mark.parametrize("stop_after", ["built", "evaluated"])
def test_every_need_is_a_node(tmp_path: Path, stop_after: StopAfter) -> None:
    nodes = Built(tmp_path, stop_after).nodes
    assert {need for node in nodes.values() for need in node.needs} <= set(nodes)


def test_what_is_not_recorded_is_work(tmp_path: Path) -> None:
    work = Built(tmp_path, "evaluated").nodes["export a/1"].prepare()
    assert isinstance(work, Work)
    assert isinstance(work.request, ExportRequest)


def test_a_cell_whose_needs_failed_is_reported_with_their_failure(tmp_path: Path) -> None:
    built = Built(tmp_path, "evaluated")
    built.nodes[named("a/1:w4g32-rtn")].on_blocked(FAILURE)
    ((progress, failure),) = built.cells
    assert (progress, failure) == (CellProgress(progress.planned), FAILURE)
