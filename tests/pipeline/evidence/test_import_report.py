from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from compilers.check.parity import Parity
from matrices.cells.cell import Cell, Evidence
from matrices.cells.measurement import Measurement
from matrices.cells.missing import missing_evidence
from matrices.ledger.db import open_database
from matrices.ledger.ledger import Ledger
from matrices.releases.release import Release
from pipeline.evidence.check import Judged, Verified
from pipeline.evidence.document import (
    EvidenceFile,
    Measured,
    MeasurementProblem,
    read_report,
    write_report,
)
from pipeline.evidence.record import with_evidence
from pipeline.stages.verify import VerifyOutput
from registry.artifact import MANIFEST_NAME
from registry.digest import digest_value
from serving.node.host import this_host
from tests.pipeline.evidence.conftest import Box, Build

ATC = """#!/bin/sh
# A stand-in with atc's arguments: it copies the model.
for argument in "$@"; do case "$argument" in
  --model=*) model="${argument#--model=}" ;;
  --output=*) output="${argument#--output=}" ;;
esac; done
cp "$model" "$output.om"
"""


def test_a_node_without_a_workspace_fills_its_column(build: Build, box: Box, evidence_file: Path):
    before = {cell.id: cell for cell in build.cells() if cell.target == "cpu-x86-64-v3"}
    assert {cell.state for cell in before.values()} == {"evaluated"}
    build.place.must("evidence", "trust", str(box.root / "node.pub"), "--name", "box-1")
    assert "box-1.pub" in build.place.must("evidence", "trust").out
    said = build.place.must("evidence", "import", str(evidence_file)).err
    assert "2 cells of cpu-x86-64-v3" in said
    after = {cell.id: cell for cell in build.cells() if cell.target == "cpu-x86-64-v3"}
    for name, cell in after.items():
        assert cell.state == "benchmarked"
        assert cell.speed is not None
        assert cell.tasks[0].accuracy == before[name].tasks[0].accuracy, "the same code, the same answers"
        fresh = cell.evidence[len(before[name].evidence) :]
        assert [entry.state for entry in fresh] == ["loads", "close", "evaluated", "benchmarked"]
        assert {entry.via for entry in fresh} == {"chip"}
        assert all("by node key" in entry.detail for entry in fresh)
        assert {entry.measurement.chip for entry in fresh} == {this_host().chip}

    build.place.must("evidence", "import", str(evidence_file))
    assert {cell.id: cell for cell in build.cells() if cell.target == "cpu-x86-64-v3"} == after, "idempotent"
    matrix = json.loads(build.place.must("matrix", "show", "--json").out)
    assert len(matrix["throughput"]) == 2
    assert all(one["decode_share"] > 0 for one in matrix["throughput"])
    penalties = {one["target"]: one for one in matrix["penalties"]}
    assert penalties["cpu-x86-64-v3"]["status"] == "unknown"
    shown = build.place.must("matrix", "show", "--target", "cpu-x86-64-v3").out
    assert "penalty of cpu-x86-64-v3: unknown" in shown
    build.place.must("build", "ladder.toml")
    assert {c.state for c in build.cells() if c.target == "cpu-x86-64-v3"} == {"benchmarked"}, (
        "a build keeps it"
    )


def test_a_release_demands_the_level_that_the_node_brought(build: Build, box: Box, evidence_file: Path):
    key = str(box.root / "node.pub")
    build.place.must("evidence", "import", str(evidence_file), "--key", key)
    build.place.must("approve", "--passing", "--family", "tiny", "--by", "me", "--reason", "it is measured")
    level = "cpu-x86-64-v3=benchmarked"
    made = build.place.must(
        "release", "create", "fast", "ladder.toml", "--by", "me", "--min-evidence", level, "--json"
    )
    release = Release.model_validate_json(made.out)
    assert release.min_evidence == {"cpu-x86-64-v3": "benchmarked"}
    wrong = build.place.rung(
        "release", "create", "x", "ladder.toml", "--by", "me", "--min-evidence", "cpu-x86-64-v3=perfect"
    )
    assert (wrong.code, "is not TARGET=LEVEL" in wrong.err) == (2, True)


def test_evidence_expires_when_a_version_moves_and_the_reason_is_told(
    build: Build, box: Box, evidence_file: Path
):
    key = str(box.root / "node.pub")
    build.place.must("evidence", "import", str(evidence_file), "--key", key)
    assert "no evidence has expired" in build.place.must("evidence", "refresh").err
    planned = build.place.must("evidence", "refresh", "--runtime", "onnxruntime=99.1", "--dry-run").err
    assert "would expire" in planned
    assert "expired" not in {cell.state for cell in build.cells()}
    build.place.must("evidence", "refresh", "--runtime", "onnxruntime=99.1")
    cells = [cell for cell in build.cells() if cell.target == "cpu-x86-64-v3"]
    assert {cell.state for cell in cells} == {"expired"}
    assert all("in use is onnxruntime 99.1" in cell.reason for cell in cells)
    played_back = build.place.rung("evidence", "import", str(evidence_file), "--key", key)
    assert (played_back.code, "before its evidence expired" in played_back.err) == (8, True)
    report, _ = read_report(evidence_file, trusted=[box.root / "node.pub"])
    newer = evidence_file.with_name("newer.json")
    write_report(_measured_now(report), path=newer, private_key=box.root / "node.key")
    build.place.must("evidence", "import", str(newer), "--key", key)
    assert "expired" not in {cell.state for cell in build.cells()}


def _measured_now(report: EvidenceFile) -> EvidenceFile:
    now = datetime.now(UTC)

    def moved(part):
        on = part.measurement.model_copy(update={"at": now})
        return part.model_copy(update={"measurement": on})

    results = tuple(
        moved(one).model_copy(
            update={
                "verify": one.verify and moved(one.verify),
                "speed": one.speed and moved(one.speed),
                "scorecards": tuple(c.model_copy(update={"measured_at": now}) for c in one.scorecards),
            }
        )
        for one in report.results
    )
    return report.model_copy(update={"results": results, "created_at": now})


def test_a_result_that_contradicts_a_lower_one_is_shown_and_not_taken(
    build: Build, box: Box, evidence_file: Path
):
    report, _ = read_report(evidence_file, trusted=[box.root / "node.pub"])
    one = report.results[0]
    cell = next(cell for cell in build.cells() if cell.id == one.cell)
    card = one.scorecards[0]
    claimed = card.model_copy(
        update={"outcomes": tuple(o.model_copy(update={"value": 1.0 - o.value}) for o in card.outcomes)}
    )
    stored = cell.tasks[0].model_copy(update={"tier": None})
    before = cell.model_copy(update={"tasks": (stored,), "state": "evaluated"})
    result = stored.model_copy(update={"tier": 1})
    bare = one.model_copy(update={"verify": None, "speed": None})
    found = Verified(bare, None, (Judged(result, claimed),))
    after = with_evidence(before, found, by="by a key", earlier={stored.task_type: card})
    assert after.tasks == (stored,), "the lower one stays"
    assert after.state == before.state
    samples = len(card.outcomes)
    assert f"contradiction: {stored.task_type}" in after.evidence[-1].detail
    assert f"{samples} of {samples} samples differ" in after.evidence[-1].detail
    assert after.evidence[-1].detail in missing_evidence(after, tasks=[])
    lower = before.model_copy(update={"tasks": (result,)})
    honest = Verified(bare, None, (Judged(stored, claimed),))
    now = with_evidence(lower, honest, by="by a key", earlier={stored.task_type: card})
    assert now.tasks == (stored,), "the lower one counts, whichever came first"
    assert "which gives way" in now.evidence[-1].detail
    same = Verified(bare, None, (Judged(result, card),))
    assert with_evidence(before, same, by="by a key", earlier={stored.task_type: card}).tasks[0].tier == 1


@pytest.fixture
def portable(build: Build, tmp_path: Path) -> tuple[Cell, Path]:
    """A portable cell of the workspace, and its bundle as a node has it."""
    store = build.workspace.store
    graph = store.add_bytes(b"a graph").at("decode.onnx")
    source = next(cell for cell in build.cells() if cell.artifact is not None)
    manifest = store.find_artifact(source.artifact).model_copy(
        update={
            "format": "portable", "toolchain": "cann", "toolchain_version": "1", "target": "npu-ascend910b",
            "recipe": "fp32", "files": (graph,), "entry": "decode.onnx",
            "options": {"node_compile": "atc --model={bundle}/decode.onnx --output={out}/decode"},
        }
    )  # fmt: skip
    digest = store.put_artifact(manifest)
    entry = Evidence(state="portable", digest=digest, at=datetime.now(UTC), detail="cann 1")
    cell = Cell(
        id=f"{source.checkpoint}:fp32:npu-ascend910b:cann", family="tiny", checkpoint=source.checkpoint,
        checkpoint_digest=source.checkpoint_digest, tier=1, recipe="fp32", target="npu-ascend910b",
        toolchain="cann", state="portable", artifact=digest, size_bytes=7, evidence=(entry,),
        updated_at=entry.at,
    )  # fmt: skip
    database = open_database(build.workspace.database_url)
    Ledger(database).put_cell(cell)
    database.close()
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "decode.onnx").write_bytes(b"a graph")
    (bundle / MANIFEST_NAME).write_text(manifest.model_dump_json())
    return cell, bundle


def _with_tool(folder: Path, text: str) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    (folder / "atc").write_text(text)
    (folder / "atc").chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def test_a_compilation_on_the_node_lifts_a_portable_cell_to_built(
    build: Build, box: Box, portable: tuple[Cell, Path], tmp_path: Path
):
    cell, bundle = portable
    failing = _with_tool(tmp_path / "broken", "#!/bin/sh\necho E10001: no such operator\nexit 1\n")
    ran = box.rung(
        "node-compile", str(bundle), "--out", str(tmp_path / "none"), "--report", "failed.json", "--key",
        "node.key", **failing,
    )  # fmt: skip
    assert ran.code == 4
    assert "does not compile" in ran.err
    key = str(box.root / "node.pub")
    build.place.must("evidence", "import", str(box.root / "failed.json"), "--key", key)
    failed = next(one for one in build.cells() if one.id == cell.id)
    assert failed.state == "failed"
    assert "does not compile it" in failed.reason

    working = _with_tool(tmp_path / "toolkit", ATC)
    ran = box.rung(
        "node-compile", str(bundle), "--out", str(tmp_path / "compiled"), "--report", "compiled.json",
        "--key", "node.key", **working,
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert (tmp_path / "compiled" / "decode.om").is_file()
    build.place.must("evidence", "import", str(box.root / "compiled.json"), "--key", key)
    now = next(one for one in build.cells() if one.id == cell.id)
    assert now.state == "built"
    assert "compiled on the node by atc" in now.evidence[-1].detail
    again = build.place.must("evidence", "import", str(box.root / "compiled.json"), "--key", key)
    assert again.code == 0
    assert next(one for one in build.cells() if one.id == cell.id) == now


def test_a_node_without_the_toolkit_is_told_what_to_install(
    box: Box, portable: tuple[Cell, Path], tmp_path: Path
):
    _, bundle = portable
    ran = box.rung("node-compile", str(bundle), "--out", str(tmp_path / "out"))
    assert ran.code == 5
    assert "`atc` is not on this machine" in ran.err
    assert box.rung("node-compile", "--out", "x").code == 2


# The state that evidence leads to, without files and processes.

ON = Measurement(
    runtime="onnxruntime", runtime_version="1", chip="a chip", driver="580.1", at=datetime.now(UTC)
)


def _cell(build: Build, state: str) -> Cell:
    cell = next(one for one in build.cells() if one.target == "cpu-x86-64-v3")
    kept = tuple(e for e in cell.evidence if e.state in ("declared", "built"))
    return cell.model_copy(
        update={"state": state, "evidence": kept, "tasks": (), "parity": None, "speed": None, "reason": ""}
    )


def _measured(cell: Cell, **parts: object) -> Verified:
    one = Measured(cell=cell.id, artifact=cell.artifact, measurement=ON)
    return Verified(one.model_copy(update=parts), None, ())


def _verify(*, within: bool) -> VerifyOutput:
    parity = Parity(
        max_abs=1.0, rms=1.0, kl=0.0, kl_variant=0.0, greedy_agreement=1.0, positions=1,
        probe=digest_value("p"), within=within, reason="as measured",
    )  # fmt: skip
    return VerifyOutput(parity=parity, measurement=ON)


def test_parity_alone_lifts_to_close_and_names_chip_and_driver(build: Build):
    cell = _cell(build, "built")
    after = with_evidence(cell, _measured(cell, verify=_verify(within=True)), by="by a key")
    assert (after.state, after.parity.within) == ("close", True)
    assert (after.evidence[-1].measurement.chip, after.evidence[-1].measurement.driver) == ("a chip", "580.1")
    apart = with_evidence(cell, _measured(cell, verify=_verify(within=False)), by="by a key")
    assert (apart.state, apart.reason) == ("loads", "as measured")


@pytest.mark.parametrize(
    ("code", "state"), [("load", "failed"), ("crash", "failed"), ("hardware", None), ("timeout", None)]
)
def test_only_what_says_something_of_the_artifact_fails_it(build: Build, code: str, state: str | None):
    cell = _cell(build, "built")
    problem = MeasurementProblem(code=code, message="it does not", hint="do")
    after = with_evidence(cell, _measured(cell, problem=problem), by="by a key")
    assert (after.state if after else None) == state
    if after:
        assert after.reason == "on a chip: it does not (do)"


def test_a_failure_on_one_chip_does_not_take_back_what_another_showed(build: Build):
    cell = next(one for one in build.cells() if one.target == "cpu-x86-64-v3" and one.tasks)
    problem = MeasurementProblem(code="load", message="it does not", hint="do")
    assert with_evidence(cell, _measured(cell, problem=problem), by="by a key") is None


def test_less_evidence_than_the_cell_has_is_added_and_takes_nothing_back(build: Build):
    cell = next(one for one in build.cells() if one.target == "cpu-x86-64-v3" and one.tasks)
    after = with_evidence(cell, _measured(cell, verify=_verify(within=True)), by="by a key")
    assert after.state == cell.state
    assert after.tasks == cell.tasks
    assert len(after.evidence) == len(cell.evidence) + 2
