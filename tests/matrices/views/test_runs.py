"""What an MLflow run of a cell says."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import pytest

from matrices.releases.ruling import Ruling
from matrices.views.runs import cell_run


def record(cell, **given):
    return cell_run(cell, **{"ruling": None, "checkpoint_source": None, "parent": None, **given})


def test_a_run_has_the_numbers_that_people_compare(new_cell):
    cell = new_cell(earned={"extraction": 1, "reasoning": None})
    run = record(cell, checkpoint_source="models:/m-1", parent="demo-flagship/1")
    assert run.metrics["score/extraction"] == 0.85
    assert run.metrics["samples/extraction"] == 400
    assert run.metrics["tier/extraction"] == 1
    assert "tier/reasoning" not in run.metrics
    assert run.metrics["size_bytes"] == cell.size_bytes
    assert run.metrics["kl_nats"] == cell.parity.kl
    assert run.tags["rung.tier.reasoning"] == "none"
    assert run.tags["rung.tier"] == "none"
    assert run.tags["rung.parent"] == "demo-flagship/1"
    assert run.tags["rung.checkpoint_version"] == "models:/demo-mid/1"
    assert run.parameters["recipe"] == "w4g32-gptq"
    assert (run.version, run.parent) == (cell.artifact, "models:/m-1")


def test_the_common_tier_is_the_one_that_holds_for_every_task_type(new_cell):
    assert record(new_cell(earned={"a": 1, "b": 3, "c": 2})).tags["rung.tier"] == "3"


def test_an_approval_is_on_the_run_only_while_the_cell_is_approved(new_cell):
    cell = new_cell()
    ruling = Ruling(
        cell=cell.id, verb="approve", who="Ada", why="good", at=datetime(2026, 11, 23, tzinfo=UTC),
        artifact=cell.artifact, waiver="a test rig",
    )  # fmt: skip
    approved = record(cell.model_copy(update={"state": "approved"}), ruling=ruling)
    assert (approved.tags["rung.approved_by"], approved.tags["rung.waiver"]) == ("Ada", "a test rig")
    assert "rung.approved_by" not in record(cell, ruling=ruling).tags


def test_a_failed_cell_is_a_failed_run_and_what_was_never_made_is_none(new_cell):
    failed = record(new_cell(state="failed", reason="segfault"))
    assert (failed.status, failed.tags["rung.reason"], failed.version) == ("FAILED", "segfault", "")
    for state in ("declared", "unsupported"):
        assert record(new_cell(state=state, reason="not for this target")) is None


@pytest.mark.parametrize("number", [math.inf, math.nan])
def test_what_is_not_finite_is_no_metric(new_cell, number):
    cell = new_cell()
    cell = cell.model_copy(update={"parity": cell.parity.model_copy(update={"kl": number})})
    assert "kl_nats" not in record(cell).metrics


def test_the_content_changes_with_what_is_said_and_not_with_the_time(new_cell):
    cell = new_cell()
    later = cell.model_copy(update={"updated_at": datetime(2027, 1, 1, tzinfo=UTC)})
    assert record(later).content == record(cell).content
    contents = {
        record(one, **given).content
        for one, given in (
            (cell, {}), (new_cell(accuracy=0.9), {}), (new_cell(build="b"), {}), (cell, {"parent": "x/1"}),
            (cell.model_copy(update={"state": "expired", "reason": "old"}), {}),
        )
    }  # fmt: skip
    assert len(contents) == 5
