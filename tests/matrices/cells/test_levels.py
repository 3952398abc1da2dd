from __future__ import annotations

import pytest

from compilers.check.parity import Parity
from matrices.cells.cell import LADDER, Evidence
from matrices.cells.levels import (
    demand_unmet,
    earned_tiers,
    evaluated_on,
    evidence_level,
    rank,
    reached,
    state_in_words,
)
from matrices.cells.measurement import Measurement
from matrices.cells.missing import missing_evidence
from registry.digest import digest_value

TASKS = ("extraction", "reasoning", "tool-calling")


def test_the_ladder_has_an_order_and_ways_off_it():
    ranks = [rank(state) for state in LADDER]
    assert ranks == sorted(set(ranks))
    assert rank("declared") < rank("portable") < rank("built")
    assert rank("failed") is None


def test_a_cell_that_fell_off_the_ladder_reached_nothing(new_cell):
    assert reached(new_cell(state="close"), state="loads")
    assert not reached(new_cell(state="close"), state="evaluated")
    assert not reached(new_cell(state="failed", reason="r"), state="declared")


def test_an_evaluation_of_another_artifact_is_none(new_cell):
    cell = new_cell()
    assert evaluated_on(cell) is not None
    moved = cell.model_copy(update={"artifact": new_cell(build="b").artifact})
    assert evaluated_on(moved) is None
    assert "no evaluation of this artifact names its runtime's version" in missing_evidence(
        moved, tasks=TASKS
    )


def test_tiers_are_those_of_the_results(new_cell):
    earned = {"extraction": 1, "reasoning": None}
    assert earned_tiers(new_cell(earned=earned)) == earned


def _emulated(cell, *, within=True):
    step = Evidence(
        state="close" if within else "loads", digest=cell.artifact, at=cell.updated_at,
        measurement=Measurement(
            runtime="tvm", runtime_version="1", chip="qemu-aarch64 7.2", at=cell.updated_at, via="emulator"
        ),
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
    assert state_in_words(cell) == "built, close in emulation"
    assert state_in_words(_emulated(new_cell(state="built"), within=False)) == "built, NOT close in emulation"
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
