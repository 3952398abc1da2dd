"""A tier is lost where callers could have it and cannot any more, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from matrices.cells.cell import Cell
from matrices.releases.lost_tiers import LostTier, lost_tiers
from matrices.releases.release import Release, ReleasedCell

CPU, OTHER = "cpu-x86-64-v3", "cpu-x86-64-v4"
Released = Callable[..., ReleasedCell]
NewRelease = Callable[..., Release]


def lost(
    made: Release, *, latest: Release | None = None, cells: tuple[Cell, ...] = ()
) -> set[tuple[int, str, str]]:
    found = lost_tiers(made, latest=latest, cells=cells, targets=(CPU, OTHER))
    return {(one.tier, one.task_type, one.target) for one in found}


def test_a_tier_that_the_latest_release_has_on_a_target_is_lost_without_its_cell(
    new_released: Released, new_release: NewRelease
) -> None:
    best = new_released("demo-big/1", tier=1, earned={"extraction": 1, "reasoning": 2})
    next_best = new_released("demo-mid/1", tier=2, earned={"extraction": 2, "reasoning": 2})
    before, after = new_release(best, next_best), new_release(next_best, name="r2")
    assert lost(after, latest=before) == {(1, "extraction", CPU)}
    [only] = lost_tiers(after, latest=before, cells=(), targets=(CPU,))
    assert only.words == f"tier 1 of extraction on {CPU}, which `{best.cell.id}` of release `r1` has"


def test_another_cell_of_that_tier_or_a_better_one_keeps_it(
    new_released: Released, new_release: NewRelease
) -> None:
    before = new_release(new_released("demo-mid/1", tier=2, earned={"extraction": 2}))
    after = new_release(new_released("demo-big/1", tier=1, earned={"extraction": 1}), name="r2")
    assert lost(after, latest=before) == set()


def test_a_tier_is_kept_target_by_target(new_released: Released, new_release: NewRelease) -> None:
    here, there = (new_released("demo-mid/1", "fp32", on, earned={"extraction": 3}) for on in (CPU, OTHER))
    before, after = new_release(here, there), new_release(here, name="r2")
    assert lost(after, latest=before) == {(3, "extraction", OTHER)}
    assert lost_tiers(after, latest=before, cells=(), targets=(CPU,)) == ()


def test_what_a_cell_earned_and_no_release_has_is_lost_where_no_approved_cell_has_it(
    new_cell: Callable[..., Cell], new_released: Released, new_release: NewRelease
) -> None:
    approved = new_released("demo-mid/1", tier=2, earned={"extraction": 2})
    earned = new_cell("demo-big/1", tier=1, earned={"extraction": 1, "unknown": 1})
    assert lost(new_release(approved), cells=(approved.cell, earned)) == {(1, "extraction", "")}
    assert lost(new_release(approved), cells=(approved.cell,)) == set()


def test_tiers_and_task_types_that_the_ladder_does_not_have_are_not_promised(
    new_released: Released, new_release: NewRelease
) -> None:
    before = new_release(new_released("demo-mid/1", tier=2, earned={"extraction": 1, "reasoning": 3}))
    after = before.model_copy(update={"cells": (), "tiers": 2, "tasks": ("reasoning",)})
    assert lost(after, latest=before) == set()


@given(
    earned=st.lists(
        st.dictionaries(st.sampled_from(["extraction", "reasoning"]), st.integers(1, 3)), max_size=3
    )
)
def test_law_a_release_loses_nothing_against_itself_and_everything_when_it_is_emptied(
    earned: list[dict[str, int]], new_released: Released, new_release: NewRelease
) -> None:
    cells = [new_released(f"demo-{n}/1", tier=1, earned=dict(each)) for n, each in enumerate(earned)]
    release = new_release(*cells)
    assert lost(release, latest=release, cells=tuple(one.cell for one in cells)) == set()
    best: dict[str, int] = {}
    for each in earned:
        for task, tier in each.items():
            best[task] = min(tier, best.get(task, 9))
    everything = {(tier, task, CPU) for task, first in best.items() for tier in range(first, 4)}
    assert lost(release.model_copy(update={"cells": ()}), latest=release) == everything


def test_losses_are_sorted_by_tier() -> None:
    assert LostTier(1, "z", "", "a", "") < LostTier(2, "a", "", "a", "")
