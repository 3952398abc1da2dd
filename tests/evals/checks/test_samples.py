"""Too few samples for a margin is arithmetic, and agrees with how bars are judged."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.checks.samples import check_samples, samples_for, smallest_margin
from evals.judge import judge
from evals.verdict import Bar
from registry.errors import ConfigurationError
from registry.ladder import TaskEntry
from tests.evals.cards import card

MARGINS = st.floats(min_value=1.0, max_value=60.0).map(lambda value: round(value, 1))


def entry(margin: float, alpha: float = 0.025, **more: int) -> TaskEntry:
    return TaskEntry(floor=(0.0,), margin_points=margin, alpha=alpha, **more)


@given(margin=MARGINS, alpha=st.sampled_from([0.01, 0.025, 0.1]))
@settings(max_examples=25, deadline=None)
def test_the_judge_holds_equal_answers_below_the_count_and_passes_them_at_it(
    margin: float, alpha: float
) -> None:
    least = samples_for(entry(margin, alpha)).at_least
    for count, expected in ((least - 1, "hold"), (least, "pass")):
        if count < 1:
            continue
        outcomes = [n % 3 != 0 for n in range(count)]
        verdict = judge(
            card(outcomes, subject="artifact"),
            reference=card(outcomes, subject="checkpoint"),
            bar=Bar(tier=1, floor=0.0, margin_points=margin, alpha=alpha),
        )
        assert verdict.status == expected


@given(samples=st.integers(min_value=1, max_value=20_000), alpha=st.sampled_from([0.01, 0.025, 0.1]))
@settings(deadline=None)
def test_the_smallest_margin_is_carried_and_a_tenth_less_is_not(samples: int, alpha: float) -> None:
    carried = smallest_margin(samples, alpha=alpha)
    assert samples_for(entry(carried, alpha)).at_least <= samples
    if carried > 0.1:
        assert samples_for(entry(carried - 0.1, alpha)).at_least > samples


def test_fewer_samples_than_the_margin_takes_are_refused_with_both_ways_out() -> None:
    with pytest.raises(
        ConfigurationError, match=r"takes 40 samples for margin_points = 2, which takes 247"
    ) as no:
        check_samples("mine", entry(2.0), available=40)
    assert f"{samples_for(entry(2.0)).at_least} samples or more" in no.value.hint
    assert f"margin_points = {smallest_margin(40, alpha=0.025):g}" in no.value.hint


def test_samples_that_carry_no_changes_at_all_are_warned_of() -> None:
    need = samples_for(entry(2.0))
    assert need.at_least < need.with_changes
    warning = check_samples("mine", entry(2.0), available=need.at_least)
    assert warning is not None
    assert f"{need.with_changes:,} samples" in warning
    assert check_samples("mine", entry(2.0), available=need.with_changes) is None


def test_max_samples_counts_where_the_data_set_is_not_known() -> None:
    assert check_samples("mine", entry(2.0), available=None) is None
    with pytest.raises(ConfigurationError):
        check_samples("mine", entry(2.0, max_samples=10), available=None)
