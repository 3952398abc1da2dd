from __future__ import annotations

import pytest

from matrices.cell import LADDER
from matrices.evidence import earned_tiers, evaluated_on, expired, missing_evidence, place, reached

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
