"""What to try next follows from the numbers of a cell's own evidence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from matrices.cells.cell import Cell
from matrices.cells.next_steps import next_steps

NewCell = Callable[..., Cell]


def judged(cell: Cell, **numbers: Any) -> Cell:
    """The cell with these numbers in the verdict of its own tier for one task type."""
    result = cell.tasks[0]
    verdicts = tuple(
        verdict.model_copy(update={"status": "hold", **numbers}) if verdict.tier == cell.tier else verdict
        for verdict in result.verdicts
    )
    return cell.model_copy(update={"tasks": (result.model_copy(update={"verdicts": verdicts}),)})


def test_a_cell_that_holds_its_tier_needs_nothing(new_cell: NewCell) -> None:
    assert next_steps(new_cell()) == []


def test_samples_and_margin_are_computed_from_the_bound(new_cell: NewCell) -> None:
    held = judged(new_cell(), difference_points=-1.0, lower_bound_points=-3.0, margin_points=2.0, samples=400)
    samples, margin, recipe = next_steps(held)
    assert "about 1,600 samples instead of 400" in samples
    assert "`margin_points = 3.1`" in margin
    assert "`w8g64-rtn` rounds less than `w4g32-gptq`" in recipe


def test_more_samples_do_not_help_a_difference_beyond_the_margin(new_cell: NewCell) -> None:
    worse = judged(new_cell(), difference_points=-6.0, lower_bound_points=-8.0, margin_points=2.0)
    assert not any("samples instead" in one for one in next_steps(worse))


@pytest.mark.parametrize(
    ("reference", "said"), [(0.5, "the checkpoint itself has 0.500"), (0.9, "0.550 is what")]
)
def test_a_missed_floor_is_the_checkpoints_or_the_recipes(
    reference: float, said: str, new_cell: NewCell
) -> None:
    missed = judged(
        new_cell(), accuracy=0.55, reference_accuracy=reference, floor=0.6, difference_points=0.0,
        lower_bound_points=-1.0,
    )  # fmt: skip
    [only] = next_steps(missed)
    assert said in only


def test_parity_outside_the_bound_asks_for_another_toolchain(new_cell: NewCell) -> None:
    assert "another toolchain than `onnxruntime`" in next_steps(new_cell(state="loads", within=False))[0]
