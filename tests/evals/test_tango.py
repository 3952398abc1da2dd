"""Tango's score interval against its definition: the likelihood maximised under each difference."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evals.tango import lower_bound, score_statistic, upper_bound

TABLES = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 400)).filter(lambda t: sum(t) > 0)


@pytest.mark.parametrize(
    ("gains", "losses", "samples"), [(12, 2, 14), (9, 3, 32), (0, 1, 54), (40, 55, 1000), (3, 0, 60)]
)
def test_bounds_are_where_the_maximised_likelihood_puts_the_score_at_its_quantile(gains, losses, samples):
    def statistic(difference: float) -> float:
        best, best_q = -math.inf, 0.0
        lowest, highest = max(0.0, -difference), (1 - difference) / 2
        for step in range(1, 4000):
            q = lowest + (highest - lowest) * step / 4000
            p = q + difference
            rest = 1 - p - q
            if min(p, q) <= 0 or rest <= 0:
                continue
            value = gains * math.log(p) + losses * math.log(q)
            concordant = samples - gains - losses
            value += concordant * math.log(rest) if concordant else 0.0
            if value > best:
                best, best_q = value, q
        variance = samples * (2 * best_q + difference - difference**2)
        return (gains - losses - samples * difference) / math.sqrt(variance)

    found_low = lower_bound(gains=gains, losses=losses, samples=samples, alpha=0.025)
    found_high = upper_bound(gains=gains, losses=losses, samples=samples, alpha=0.025)
    assert statistic(found_low) == pytest.approx(1.95996, abs=0.02)
    assert statistic(found_high) == pytest.approx(-1.95996, abs=0.02)


@given(table=TABLES, difference=st.floats(-0.99, 0.99), alpha=st.floats(0.001, 0.2))
def test_the_bound_and_the_test_agree(table, difference, alpha):
    from statistics import NormalDist

    gains, losses, equal = table
    samples = gains + losses + equal
    bound = lower_bound(gains=gains, losses=losses, samples=samples, alpha=alpha)
    statistic = score_statistic(gains=gains, losses=losses, samples=samples, difference=difference)
    quantile = NormalDist().inv_cdf(1 - alpha)
    if abs(statistic - quantile) > 1e-6 and abs(bound - difference) > 1e-9:
        assert (bound > difference) == (statistic > quantile)


@given(table=TABLES, alpha=st.floats(0.001, 0.2))
def test_the_bounds_enclose_the_estimate_and_mirror_each_other(table, alpha):
    gains, losses, equal = table
    samples = gains + losses + equal
    low = lower_bound(gains=gains, losses=losses, samples=samples, alpha=alpha)
    assert -1 <= low <= (gains - losses) / samples
    assert upper_bound(gains=losses, losses=gains, samples=samples, alpha=alpha) == -low


@given(table=TABLES.filter(lambda t: t[1] > 0), alpha=st.floats(0.001, 0.2))
def test_one_loss_less_never_lowers_the_bound(table, alpha):
    gains, losses, equal = table
    samples = gains + losses + equal
    before = lower_bound(gains=gains, losses=losses, samples=samples, alpha=alpha)
    assert lower_bound(gains=gains, losses=losses - 1, samples=samples, alpha=alpha) >= before - 1e-9
    assert lower_bound(gains=gains + 1, losses=losses - 1, samples=samples, alpha=alpha) >= before - 1e-9


def test_without_discordant_samples_the_bound_shrinks_with_their_number():
    bounds = [lower_bound(gains=0, losses=0, samples=n, alpha=0.025) for n in (10, 100, 1000)]
    # √(n δ / (1 − δ)) = z, solved for δ.
    expected = [-(1.959964**2) / (n + 1.959964**2) for n in (10, 100, 1000)]
    assert bounds == pytest.approx(expected, abs=1e-6)


def test_no_sample_says_nothing():
    assert lower_bound(gains=0, losses=0, samples=0, alpha=0.025) == -1
