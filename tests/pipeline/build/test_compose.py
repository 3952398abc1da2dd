"""A cell is what the records say, and no more where an emulator ran it or its node has yet to compile it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from compilers.check.parity import Parity
from compilers.proof.proof import Proof
from matrices.cells.cell import Cell, TaskResult
from matrices.cells.levels import evidence_level, state_in_words
from matrices.cells.measurement import Measurement
from pipeline.build.cell_progress import CellProgress
from pipeline.build.compose import compose_cell
from pipeline.build.plan import PlannedCell
from pipeline.build.records import Recorded
from pipeline.executors.interface import Failure
from pipeline.stages.evaluate import EvaluateOutput
from pipeline.stages.lower import LowerOutput
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.prove import ProveOutput
from pipeline.stages.quantize import QuantizeOutput
from pipeline.stages.rehearse import RehearseOutput
from pipeline.stages.verify import VerifyOutput
from registry.artifact import Manifest, ModelFacts
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import digest_value
from registry.recipe import parse_recipe
from registry.target import find_target
from registry.variant import Variant

NOW = datetime(2026, 11, 22, tzinfo=UTC)
NO_DIGEST = digest_value("x")
WEIGHTS = FileEntry(path="weights.safetensors", digest=digest_value("weights"), size_bytes=1000)
FACTS = ModelFacts(
    architecture="LlamaForCausalLM", vocab_size=300, hidden_size=64, layers=2, heads=4, kv_heads=2,
    head_size=16, max_context=128, add_bos=False,
)  # fmt: skip


CHECKPOINT = Checkpoint(
    name="a",
    version="1",
    digest=NO_DIGEST,
    files=(FileEntry(path="config.json", digest=NO_DIGEST, size_bytes=2),),
    family="f",
    architecture="LlamaForCausalLM",
    parameters=500,
    licence="unknown",
    add_bos=False,
)


def progress(*, target: str, made_as: str, lacks: str) -> CellProgress:
    planned = PlannedCell(CHECKPOINT, 1, parse_recipe("fp32"), find_target(target), "cann")
    manifest = Manifest(
        build_key=NO_DIGEST, format=made_as, toolchain="cann", toolchain_version="1", target=target,
        checkpoint="a/1", checkpoint_digest=NO_DIGEST, family="f", licence="unknown", recipe="fp32",
        facts=FACTS, files=(WEIGHTS,), entry="x", memory_bytes=1, kv_bytes_per_token=64,
    )  # fmt: skip
    variant = Variant(
        checkpoint="a/1",
        checkpoint_digest=NO_DIGEST,
        recipe=parse_recipe("fp32"),
        graph=WEIGHTS,
        weights=WEIGHTS,
    )
    return CellProgress(
        planned,
        variant=QuantizeOutput(variant=variant, probe=ProbeOutput(tokens=NO_DIGEST, logits=NO_DIGEST)),
        lowered=Recorded(LowerOutput(entry="x", files=(), log=NO_DIGEST), NOW),
        manifest=manifest,
        cannot_run=(lacks,),
    )


def compose(made: CellProgress) -> Cell:
    return compose_cell(made, None, declared_at=NOW, at=NOW)


def rehearsal(*, within: bool) -> RehearseOutput:
    parity = Parity(
        max_abs=1.0, rms=1.0, kl=0.0, kl_variant=0.0, greedy_agreement=1.0, positions=1, probe=NO_DIGEST,
        within=within, reason="as measured",
    )  # fmt: skip
    means = "QNN HTP emulation 2.7"
    on = Measurement(runtime="qnn", runtime_version="2.7", chip=means, via="emulator", at=NOW)
    return RehearseOutput(parity=parity, means=means, measurement=on)


def test_an_artifact_that_only_its_node_can_compile_is_portable() -> None:
    cell = compose(progress(target="npu-ascend910b", made_as="portable", lacks="npu"))
    assert (cell.state, evidence_level(cell)) == ("portable", "portable")
    assert cell.reason == "made for `npu-ascend910b`; this machine lacks npu"
    assert cell.variant.weights == WEIGHTS.digest
    assert (cell.variant.weights_bytes, cell.variant.parameters) == (1000, 500)


def test_a_rehearsal_is_shown_and_lifts_nothing() -> None:
    made = progress(target="npu-qnn-v73", made_as="qnn", lacks="htp")
    cell = compose(replace(made, rehearsed=Recorded(rehearsal(within=True), NOW)))
    assert (cell.state, state_in_words(cell)) == ("built", "built, close in emulation")
    assert cell.parity is None
    last = cell.evidence[-1]
    assert (last.state, last.via, last.measurement.chip) == ("close", "emulator", "QNN HTP emulation 2.7")


def test_a_rehearsal_that_is_not_close_is_told_in_the_reason() -> None:
    made = progress(target="npu-qnn-v73", made_as="qnn", lacks="htp")
    cell = compose(replace(made, rehearsed=Recorded(rehearsal(within=False), NOW)))
    assert cell.evidence[-1].state == "loads"
    assert "in emulation as measured" in cell.reason
    assert state_in_words(cell) == "built, NOT close in emulation"


def test_what_the_files_hold_is_evidence_of_the_build() -> None:
    made = progress(target="npu-qnn-v73", made_as="qnn", lacks="htp")
    proof = Proof(binaries=(), problems=(), summary="a QNN context")
    made = replace(made, proven=Recorded(ProveOutput(proof=proof), NOW))
    assert compose(made).evidence[-1].detail == "opened: a QNN context"


def test_a_task_type_that_could_not_be_evaluated_takes_nothing_from_the_others() -> None:
    at_hand = progress(target="cpu-x86-64-v3", made_as="onnxruntime", lacks="")
    on = Measurement(runtime="onnxruntime", runtime_version="1", chip="a chip", at=NOW)
    parity = rehearsal(within=True).parity
    assert parity is not None
    evaluated = EvaluateOutput(result=result("retrieval"), measurement=on)
    made = replace(
        at_hand,
        cannot_run=(),
        verified=Recorded(VerifyOutput(parity=parity, measurement=on), NOW),
        evaluated={"retrieval": Recorded(evaluated, NOW), "mine": None},
    )
    failure = Failure("evaluation", "`mine` could not be evaluated", "mend it", 6, NO_DIGEST)

    cell = compose_cell(made, failure, declared_at=NOW, at=NOW)
    assert (cell.state, [one.task_type for one in cell.tasks]) == ("close", ["retrieval"])
    assert cell.reason == "`mine` could not be evaluated (mend it)"

    stored = cell.model_copy(update={"tasks": (result("mine"),)})
    again = compose_cell(made, failure, declared_at=NOW, at=NOW, before=stored)
    assert {one.task_type for one in again.tasks} == {"retrieval", "mine"}
    assert again.state == "evaluated"
    other = stored.model_copy(update={"artifact": digest_value("another")})
    assert compose_cell(made, failure, declared_at=NOW, at=NOW, before=other).tasks == cell.tasks

    crash = replace(failure, code="crash")
    assert compose_cell(made, crash, declared_at=NOW, at=NOW).state == "failed"


def result(task_type: str) -> TaskResult:
    return TaskResult(
        task_type=task_type, accuracy=0.5, samples=20, available=20, batch_size=1, tier=1, verdicts=(),
        scorecard=NO_DIGEST, tasks_digest=NO_DIGEST,
    )  # fmt: skip
