"""The betting tests: valid at any stopping time, quick where there is something to find."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.betting import SHARES, anytime_lower_bound, bet_above, bet_below, bet_on_equal

NUMBERS = st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60)


def test_wealth_is_the_mean_over_the_gamblers_of_the_products():
    numbers, mean = [1.0, 0.0, -1.0, 0.0, 1.0], -0.02
    most = 1 / (mean + 1)
    own = [math.prod(1 + share * most * (x - mean) for x in numbers) for share in SHARES]
    assert bet_above(numbers, mean, lowest=-1).log_wealth == pytest.approx(math.log(sum(own) / len(own)))


@given(numbers=NUMBERS, mean=st.floats(-0.9, 0.9))
def test_below_is_above_in_the_mirror(numbers, mean):
    mirrored = [-x for x in numbers]
    assert bet_below(numbers, mean, highest=1) == bet_above(mirrored, -mean, lowest=-1)


@given(numbers=NUMBERS, mean=st.floats(-0.9, 0.9), place=st.integers(0, 59))
def test_a_larger_number_never_lowers_the_wealth(numbers, mean, place):
    raised = list(numbers)
    raised[place % len(numbers)] = 1.0
    assert bet_above(raised, mean, lowest=-1).log_peak >= bet_above(numbers, mean, lowest=-1).log_peak - 1e-9
    assert bet_below(raised, mean, highest=1).log_peak <= bet_below(numbers, mean, highest=1).log_peak + 1e-9


@given(numbers=NUMBERS, mean=st.floats(-0.9, 0.9))
def test_more_numbers_never_take_back_what_was_proved(numbers, mean):
    peaks = [bet_above(numbers[:size], mean, lowest=-1).log_peak for size in range(len(numbers) + 1)]
    assert peaks == sorted(peaks)


@given(numbers=NUMBERS, alpha=st.floats(0.001, 0.3))
def test_the_bound_is_where_the_proof_ends(numbers, alpha):
    bound = anytime_lower_bound(numbers, lowest=-1, highest=1, alpha=alpha)
    assert -1 <= bound <= 1
    if bound > -1:
        assert bet_above(numbers, bound - 1e-6, lowest=-1).proves(alpha=alpha)
    assert not bet_above(numbers, bound + 1e-6, lowest=-1).proves(alpha=alpha)


def test_no_number_proves_nothing():
    assert not bet_above([], 0.0, lowest=-1).proves(alpha=0.5)


def test_a_number_that_the_statement_excludes_is_proof_at_once():
    assert bet_below([1.0, 0.0], 1.0, highest=1.0).proves(alpha=0.025)
    assert not bet_above([1.0] * 1000, 1.0, lowest=0.0).proves(alpha=0.5)


@pytest.mark.parametrize("loss", [0.02, 0.06, 0.2])
def test_at_the_limit_it_errs_at_most_alpha_of_the_time_with_a_look_after_every_number(loss):
    # 1,500 runs of 800 numbers whose mean is exactly the refuted one.
    generator, mean, alpha = np.random.default_rng(7), -0.02, 0.05
    wrong = 0
    for _ in range(1500):
        draw = generator.random(800)
        numbers = np.where(draw < loss, -1.0, np.where(draw < loss + (loss + mean), 1.0, 0.0))
        wrong += bet_above(numbers, mean, lowest=-1).proves(alpha=alpha)
    # Three standard deviations of a binomial share above alpha.
    assert wrong / 1500 <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / 1500)


@given(
    number=st.floats(min_value=-0.5, max_value=1.0),
    mean=st.floats(min_value=-0.9, max_value=0.9),
    times=st.integers(min_value=1, max_value=400),
)
def test_equal_numbers_give_the_wealth_of_betting_on_each(number: float, mean: float, times: int) -> None:
    one_by_one = bet_above([number] * times, mean, lowest=-1)
    at_once = bet_on_equal(number, mean, times=times, lowest=-1)
    assert at_once.log_wealth == pytest.approx(one_by_one.log_wealth, abs=1e-6, rel=1e-9)
