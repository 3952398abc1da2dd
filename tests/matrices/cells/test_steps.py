from __future__ import annotations

from datetime import UTC, datetime

import pytest

from compilers.check.speed import Speed
from matrices.cells import steps
from matrices.cells.measurement import Measurement

AT = datetime(2026, 11, 23, tzinfo=UTC)
ON = Measurement(runtime="onnxruntime", runtime_version="1.31.1", chip="a chip", driver="580.1", at=AT)
SPEED = Speed(
    prompt_tokens=8, prefill_tokens_per_s=10.0, context=12, decode_steps=4, decode_tokens_per_s=5.0,
    repeats=1, threads=1,
)  # fmt: skip


def test_each_measured_step_carries_its_measurement_and_its_time(new_cell):
    done = new_cell()
    cell = new_cell(state="built")
    cell = steps.verified(cell, done.parity, measurement=ON)
    found = [steps.Evaluated(result, ON) for result in done.tasks]
    cell = steps.evaluated(cell, found, asked=[result.task_type for result in done.tasks])
    cell = steps.benchmarked(cell, SPEED, measurement=ON)
    fresh = cell.evidence[2:]
    assert [e.state for e in fresh] == ["loads", "close", *["evaluated"] * len(found), "benchmarked"]
    assert {(e.measurement, e.at, e.digest) for e in fresh} == {(ON, AT, cell.artifact)}
    assert (cell.state, cell.speed, cell.tasks, cell.updated_at) == ("benchmarked", SPEED, done.tasks, AT)


def test_a_cell_is_evaluated_once_it_is_close_and_every_task_type_has_a_result(new_cell):
    done = new_cell()
    first, *others = done.tasks
    asked = [result.task_type for result in done.tasks]
    close = new_cell(state="close")
    some = steps.evaluated(close, [steps.Evaluated(first, ON)], asked=asked)
    assert (some.state, some.tasks) == ("close", (first,))
    assert steps.evaluated(close, [steps.Evaluated(first, ON)], asked=asked, kept=others).state == "evaluated"
    assert steps.evaluated(close, [], asked=[]).state == "close", "nothing was evaluated"
    loads = new_cell(state="loads")
    assert steps.evaluated(loads, [steps.Evaluated(first, ON)], asked=[first.task_type]).state == "loads"
    assert steps.benchmarked(close, SPEED, measurement=ON).state == "close"


@pytest.mark.parametrize(("within", "state"), [(True, "close"), (False, "loads")])
def test_parity_out_of_bound_is_the_reason_and_the_cell_only_loads(new_cell, within, state):
    parity = new_cell(within=within).parity
    cell = steps.verified(new_cell(state="built"), parity, measurement=ON)
    assert (cell.state, cell.reason) == (state, "" if within else parity.reason)


def test_an_emulator_and_a_proof_leave_the_state_as_it_is(new_cell):
    cell, emulated = new_cell(state="built"), ON.model_copy(update={"via": "emulator"})
    after = steps.rehearsed(cell, new_cell().parity, measurement=emulated)
    assert (after.state, after.evidence[-1].state, after.evidence[-1].via) == ("built", "close", "emulator")
    assert steps.proven(cell, summary="AVX2", at=AT).evidence[-1].detail == "opened: AVX2"


def test_what_ran_nothing_names_the_chip_without_a_runtime(new_cell):
    cell = new_cell(state="built")
    failed = steps.failed(cell, why="it crashed", reason="on a chip: it crashed", at=AT, measurement=ON)
    made = steps.compiled(cell, by="atc 8.0", files=["model.om"], measurement=ON)
    for after, state in ((failed, "failed"), (made, "built")):
        on = after.evidence[-1].measurement
        assert (after.state, on.runtime, on.runtime_version, on.chip) == (state, None, None, "a chip")
