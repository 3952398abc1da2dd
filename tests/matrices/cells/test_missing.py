from __future__ import annotations

import pytest

from matrices.cells.missing import missing_evidence

TASKS = ("extraction", "reasoning", "tool-calling")


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
