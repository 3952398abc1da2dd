from __future__ import annotations

import pytest

from compilers.check.parity import Parity
from matrices.cells.cell import LADDER, Evidence
from matrices.cells.levels import (
    Versions,
    demand_unmet,
    earned_tiers,
    evaluated_on,
    evidence_level,
    expired,
    in_words,
    missing_evidence,
    place,
    reached,
)
from registry.digest import digest_value

TASKS = ("extraction", "reasoning", "tool-calling")


def test_the_ladder_has_an_order_and_ways_off_it():
    assert [place(state) for state in LADDER] == list(range(len(LADDER)))
    assert place("failed") is None


def test_a_cell_that_fell_off_the_ladder_reached_nothing(new_cell):
    assert reached(new_cell(state="close"), state="loads")
    assert not reached(new_cell(state="close"), state="evaluated")
    assert not reached(new_cell(state="failed", reason="r"), state="declared")


def test_nothing_is_missing_where_every_task_keeps_the_place_of_the_checkpoint(new_cell):
    assert missing_evidence(new_cell(), tasks=TASKS) == []
    assert missing_evidence(new_cell(earned=dict.fromkeys(TASKS, 1)), tasks=TASKS) == []


def test_every_shortfall_is_named_at_once(new_cell):
    cell = new_cell(earned={"extraction": None, "reasoning": 3}, within=False)
    missing = missing_evidence(cell, tasks=TASKS)
    assert [sentence.split(":")[0].split("`")[1] for sentence in missing if "`" in sentence] == list(TASKS)
    assert missing[0].startswith("its parity is outside the bound: KL 0.0006 is above")


def test_a_cell_of_an_artifact_that_failed_needs_more_than_numbers(new_cell):
    cell = new_cell().model_copy(update={"state": "failed", "reason": "it crashes"})
    assert missing_evidence(cell, tasks=TASKS) == ["it is failed: it crashes"]


def _with_verdict(cell, task, **change):
    results = tuple(
        result.model_copy(
            update={
                "tier": None,
                "verdicts": tuple(
                    verdict.model_copy(update={"status": "fail", "reason": "the reason"} | change)
                    for verdict in result.verdicts
                ),
            }
        )
        if result.task_type == task
        else result
        for result in cell.tasks
    )
    return cell.model_copy(update={"tasks": results})


@pytest.mark.parametrize(
    ("change", "is_missing"),
    [
        ({"reference_accuracy": 0.5, "lower_bound_points": -1.5}, False),
        ({"reference_accuracy": 0.5, "lower_bound_points": -2.5}, True),
        ({"reference_accuracy": 0.5, "lower_bound_points": -2.0}, True),
        ({"reference_accuracy": 0.7, "lower_bound_points": -1.5}, True),
    ],
)
def test_a_cell_keeps_what_its_checkpoint_has_even_if_that_is_below_the_floor(new_cell, change, is_missing):
    cell = _with_verdict(new_cell(), "reasoning", **change)
    missing = missing_evidence(cell, tasks=TASKS)
    assert missing == (["`reasoning` does not hold tier 2: fail, the reason"] if is_missing else [])


def test_a_cell_that_earned_nothing_at_all_is_not_approvable(new_cell):
    cell = new_cell()
    for task in TASKS:
        cell = _with_verdict(cell, task, reference_accuracy=0.5, lower_bound_points=-1.0)
    assert missing_evidence(cell, tasks=TASKS) == ["earned no tier for any task type"]


def test_an_undecided_verdict_is_missing_evidence(new_cell):
    cell = _with_verdict(new_cell(), "reasoning", status="hold")
    assert missing_evidence(cell, tasks=TASKS) == ["`reasoning` does not hold tier 2: hold, the reason"]


def test_an_evaluation_of_another_artifact_is_none(new_cell):
    cell = new_cell()
    assert evaluated_on(cell) is not None
    moved = cell.model_copy(update={"artifact": new_cell(build="b").artifact})
    assert evaluated_on(moved) is None
    assert "no evaluation of this artifact names its runtime's version" in missing_evidence(
        moved, tasks=TASKS
    )


@pytest.mark.parametrize(
    ("runtimes", "is_expired"),
    [
        ({"onnxruntime": "1.31.1"}, False),
        ({"onnxruntime": "1.31.2"}, True),
        ({"tvm": "9"}, False),
        ({}, False),
    ],
)
def test_evidence_expires_with_the_version_of_its_own_runtime(new_cell, runtimes, is_expired):
    said = expired(new_cell(), runtimes=runtimes)
    assert (said is not None) == is_expired
    if said:
        assert said == "evaluated on onnxruntime 1.31.1, in use is onnxruntime 1.31.2"


def test_what_was_never_evaluated_cannot_expire(new_cell):
    assert expired(new_cell(state="built"), runtimes={"onnxruntime": "0"}) is None


def test_tiers_are_those_of_the_results(new_cell):
    earned = {"extraction": 1, "reasoning": None}
    assert earned_tiers(new_cell(earned=earned)) == earned


def _emulated(cell, *, within=True):
    step = Evidence(
        state="close" if within else "loads", digest=cell.artifact, runtime="tvm", runtime_version="1",
        chip="qemu-aarch64 7.2", at=cell.updated_at, via="emulator",
    )  # fmt: skip
    parity = new_parity(within)
    return cell.model_copy(update={"rehearsal": parity, "evidence": (*cell.evidence, step)})


def new_parity(within):
    return Parity(
        max_abs=1e-5, rms=1e-6, kl=0.0, kl_variant=0.0, greedy_agreement=1.0, positions=8,
        probe=digest_value("p"), within=within, reason="as measured",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("state", "level"),
    [("built", "built"), ("loads", "loads"), ("close", "close"), ("evaluated", "evaluated")],
)
def test_the_level_of_a_cell_is_how_far_its_own_steps_reach(new_cell, state, level):
    assert evidence_level(new_cell(state=state)) == level
    assert evidence_level(new_cell(state="declared")) is None


def test_an_emulator_lifts_a_cell_nowhere_but_is_told(new_cell):
    cell = _emulated(new_cell(target="cpu-aarch64-neoverse-n1", toolchain="tvm", state="built"))
    assert evidence_level(cell) == "built"
    assert in_words(cell) == "built, close in emulation"
    assert in_words(_emulated(new_cell(state="built"), within=False)) == "built, NOT close in emulation"
    said = missing_evidence(cell, tasks=TASKS)
    assert "it was never loaded" in said
    assert any("close in emulation by qemu-aarch64 7.2" in one for one in said)


def test_what_only_the_node_can_compile_is_portable_until_it_was_compiled_there(new_cell):
    built = new_cell(target="npu-intel", toolchain="tvm", state="built")
    entry = Evidence(state="portable", digest=built.artifact, at=built.updated_at)
    cell = built.model_copy(update={"state": "portable", "evidence": (built.evidence[0], entry)})
    assert evidence_level(cell) == "portable"
    assert "it was never compiled: only its node can (`rung node-compile`)" in missing_evidence(
        cell, tasks=TASKS
    )
    approved = cell.model_copy(update={"state": "approved"})
    assert evidence_level(approved) == "portable", "an approval is no evidence"
    compiled = cell.model_copy(update={"state": "built", "evidence": (*cell.evidence, built.evidence[1])})
    assert evidence_level(compiled) == "built"


def test_what_expired_no_longer_counts_until_it_is_reported_again(new_cell):
    cell = new_cell()
    gone = Evidence(state="expired", digest=cell.artifact, at=cell.updated_at, detail="driver moved")
    expired_cell = cell.model_copy(
        update={"state": "expired", "reason": "driver moved", "evidence": (*cell.evidence, gone)}
    )
    assert evidence_level(expired_cell) == "built"
    waived = expired_cell.model_copy(update={"state": "approved", "reason": ""})
    assert evidence_level(waived) == "built", "a waiver makes no evidence"
    again = cell.evidence[-1]
    assert (
        evidence_level(cell.model_copy(update={"evidence": (*expired_cell.evidence, again)})) == "evaluated"
    )


def test_a_demand_that_is_not_met_says_what_is_there_and_what_is_asked(new_cell):
    assert demand_unmet(new_cell(), demanded="evaluated") is None
    assert demand_unmet(new_cell(), demanded=None) is None
    said = demand_unmet(new_cell(state="built", target="cuda-sm90", toolchain="tvm"), demanded="close")
    assert said == "its evidence reaches `built`, the release demands `close` of `cuda-sm90`"
    assert demand_unmet(new_cell(), demanded="benchmarked") is not None
    assert demand_unmet(new_cell(state="declared"), demanded="portable").startswith("there is no artifact")


def _driven(cell, driver):
    entries = tuple(e.model_copy(update={"driver": driver}) for e in cell.evidence)
    return cell.model_copy(update={"evidence": entries})


def test_evidence_expires_with_the_driver_of_its_chip(new_cell):
    cell = _driven(new_cell(), "580.65")
    assert expired(cell, versions=Versions(drivers={"a chip": "580.65", "another": "1"})) is None
    said = expired(cell, versions=Versions(drivers={"a chip": "590.10"}))
    assert said == "evaluated with driver 580.65 of a chip, in use is 590.10"
    assert expired(new_cell(), versions=Versions(drivers={"a chip": "590.10"})) is None


def test_evidence_expires_with_the_toolchain_that_the_artifact_was_built_with(new_cell, new_manifest):
    versions = Versions(toolchains={"onnxruntime": "2"})
    said = expired(new_cell(), versions=versions, manifest=new_manifest())
    assert said == "built with onnxruntime 1, in use is onnxruntime 2"
    assert expired(new_cell(), versions=versions) is None, "without its manifest that is not known"
