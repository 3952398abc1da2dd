"""The judge: what passes, what fails, what it cannot say, and how often it errs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.judge import SequentialJudge, judge, needed_samples
from evals.verdict import Bar
from registry.digest import digest_bytes
from registry.errors import EvaluationError
from tests.evals.cards import card, outcomes

BAR = Bar(tier=1, floor=0.5, margin_points=2.0)
RANK = {"fail": 0, "hold": 1, "pass": 2}
BITS = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=80)


def drawn(n: int, *, accuracy: float, gain: float, loss: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reference and variant: `gain` of all samples are won, `loss` lost."""
    generator = np.random.default_rng(seed)
    draw = generator.random(n)
    reference = np.where(draw < loss, 1.0, np.where(draw < loss + gain, 0.0, generator.random(n) < accuracy))
    variant = np.where(draw < loss, 0.0, np.where(draw < loss + gain, 1.0, reference))
    return reference, variant


def test_the_reference_passes_its_own_tier_however_few_samples_there_are():
    values = [1.0, 1.0, 0.0, 1.0]
    verdict = judge(card(values, subject="same"), reference=card(values, subject="same"), bar=BAR)
    assert verdict.status == "pass"
    assert verdict.lower_bound_points == 0
    assert verdict.accuracy == verdict.reference_accuracy == 0.75


def test_the_reference_does_not_pass_its_own_tier_below_the_floor():
    values = [1.0, 0.0, 0.0, 0.0]
    verdict = judge(card(values, subject="same"), reference=card(values, subject="same"), bar=BAR)
    assert verdict.status == "fail"
    assert "misses the floor 0.5000" in verdict.reason


def test_identical_outcomes_of_another_artifact_pass_when_there_are_enough_and_else_hold():
    enough = needed_samples(bar=BAR)
    assert enough == 247  # z² (1 − δ) / δ at half of 0.025
    for n, status in ((enough, "pass"), (enough - 1, "hold")):
        verdict = judge(card([1.0] * n), reference=card([1.0] * n, subject="reference"), bar=BAR)
        assert verdict.status == status
    assert "no fewer than 247 can prove that margin" in verdict.reason


def test_a_variant_ten_points_worse_fails():
    reference, variant = drawn(1000, accuracy=0.8, gain=0.02, loss=0.12, seed=1)
    verdict = judge(card(variant), reference=card(reference, subject="r"), bar=BAR)
    assert verdict.status == "fail"
    assert "inferior to the reference" in verdict.reason
    assert f"{verdict.difference_points:+.2f} points" in verdict.reason


def test_a_difference_at_the_margin_is_not_decided():
    reference, variant = np.ones(500), np.ones(500)
    variant[25::50] = 0  # two points worse
    verdict = judge(card(variant), reference=card(reference, subject="r"), bar=BAR)
    assert verdict.status == "hold"
    assert verdict.lower_bound_points < -2.0


def test_a_non_inferior_variant_below_the_floor_fails():
    values = [1.0, 0.0] * 400
    verdict = judge(
        card(values), reference=card(values, subject="r"), bar=BAR.model_copy(update={"floor": 0.51})
    )
    assert verdict.status == "fail"
    assert "non-inferior" in verdict.reason


def test_tangos_bound_does_not_speak_before_all_samples_were_taken():
    values = [1.0] * 260
    reference = card([1.0] * 2000, subject="r")
    assert judge(card(values, available=2000), reference=reference, bar=BAR).status == "hold"
    assert judge(card(values), reference=reference, bar=BAR).status == "pass"


def test_an_accuracy_near_the_floor_is_not_decided_early():
    generator = np.random.default_rng(3)
    values = (generator.random(600) < 0.52).astype(float)
    reference = card(np.concatenate([values, np.ones(1400)]), subject="r")
    early = judge(card(values, available=2000), reference=reference, bar=BAR)
    assert early.status == "hold"
    assert "too close" in early.reason
    assert judge(card(values), reference=reference, bar=BAR).status == "pass"


def test_a_floor_of_zero_and_of_one_can_be_judged():
    values = [1.0] * 400
    for floor in (0.0, 1.0):
        bar = BAR.model_copy(update={"floor": floor})
        assert judge(card(values), reference=card(values, subject="r"), bar=bar).status == "pass"
    one_wrong = [0.0, *values]
    bar = BAR.model_copy(update={"floor": 1.0})
    reference = card([*one_wrong, 1.0], subject="r")
    assert judge(card(one_wrong, available=402), reference=reference, bar=bar).status == "fail"


def test_fractional_outcomes_are_judged_by_the_betting_test_alone():
    values = [0.5, 0.75] * 300
    verdict = judge(card(values), reference=card(values, subject="r"), bar=BAR)
    assert verdict.status == "pass"
    worse = [value - 0.3 for value in values]
    bar = BAR.model_copy(update={"floor": 0.0})
    assert judge(card(worse), reference=card(values, subject="r"), bar=bar).status == "fail"


@given(
    reference=BITS,
    flips=st.lists(st.booleans(), min_size=80, max_size=80),
    place=st.integers(0, 79),
    available=st.sampled_from([0, 50]),
    floor=st.sampled_from([0.0, 0.3, 0.5, 0.8]),
    margin=st.sampled_from([2.0, 10.0, 40.0]),
)
@settings(max_examples=150, deadline=None)
def test_a_wrong_sample_that_becomes_right_never_worsens_the_verdict(
    reference, flips, place, available, floor, margin
):
    variant = [1 - value if flip else value for value, flip in zip(reference, flips, strict=False)]
    better = list(variant)
    better[place % len(variant)] = 1.0
    bar = Bar(tier=1, floor=floor, margin_points=margin, alpha=0.1)
    against = card([*reference, *[1.0] * available], subject="r")
    size = len(variant) + available
    before = judge(card(variant, available=size), reference=against, bar=bar)
    after = judge(card(better, available=size), reference=against, bar=bar)
    assert RANK[after.status] >= RANK[before.status]
    assert after.lower_bound_points >= before.lower_bound_points - 1e-6


@given(values=BITS, flips=st.lists(st.booleans(), min_size=80, max_size=80), margin=st.floats(0.5, 50))
@settings(max_examples=40, deadline=None)
def test_a_wider_margin_or_a_lower_floor_never_worsens_the_verdict(values, flips, margin):
    variant = [1 - value if flip else value for value, flip in zip(values, flips, strict=False)]
    reference = card(values, subject="r")
    strict = Bar(tier=1, floor=0.6, margin_points=margin, alpha=0.1)
    lax = Bar(tier=2, floor=0.4, margin_points=margin + 5, alpha=0.1)
    statuses = [judge(card(variant), reference=reference, bar=bar).status for bar in (strict, lax)]
    assert RANK[statuses[1]] >= RANK[statuses[0]]


@pytest.mark.parametrize("loss", [0.02, 0.05, 0.15])
def test_a_variant_at_the_bar_passes_at_most_alpha_of_the_time_with_a_look_after_every_chunk(loss):
    n, runs, alpha, margin = 400, 200, 0.05, 0.02
    bar = Bar(tier=1, floor=0.0, margin_points=100 * margin, alpha=alpha)
    passed = 0
    for seed in range(runs):
        reference, variant = drawn(n, accuracy=0.7, gain=loss - margin, loss=loss, seed=seed)
        against, measured = card(reference, subject="r"), card(variant)
        until = SequentialJudge(references={1: against}, bars=[bar])
        taken = next((size for size in range(50, n, 50) if until(measured.outcomes[:size])), n)
        stopped = measured.model_copy(update={"outcomes": measured.outcomes[:taken]})
        passed += judge(stopped, reference=against, bar=bar).status == "pass"
    assert passed / runs <= alpha + 3 * math.sqrt(alpha * (1 - alpha) / runs)
    assert passed  # it is not merely deaf


def test_the_sequential_judge_stops_when_and_only_when_every_bar_is_decided():
    bars = [BAR, Bar(tier=2, floor=0.2, margin_points=2.0)]
    values = np.ones(2000)
    small = np.zeros(2000)
    small[::4] = 1
    references = {1: card(values, subject="r"), 2: card(small, subject="s")}
    sequential = SequentialJudge(references=references, bars=bars)
    variant = outcomes(values)
    stops = next(size for size in range(10, 2001, 10) if sequential(variant[:size]))
    assert 200 < stops < 400
    for bar in bars:
        early = card(values[:stops], available=2000)
        assert judge(early, reference=references[bar.tier], bar=bar).status == "pass"
    # A variant like the small one fails tier 1 at once and takes longer for tier 2.
    alone = SequentialJudge(references=references, bars=bars[:1])
    both = SequentialJudge(references=references, bars=bars)
    variant = outcomes(small)
    assert next(s for s in range(10, 2001, 10) if alone(variant[:s])) < next(
        s for s in range(10, 2001, 10) if both(variant[:s])
    )


def test_the_sequential_judge_does_not_decide_on_nothing():
    assert not SequentialJudge(references={1: card([1.0])}, bars=[BAR])([])


def test_scorecards_of_other_tasks_are_not_paired():
    other = digest_bytes(b"other tasks")
    with pytest.raises(EvaluationError, match="other tasks, data or order") as error:
        judge(card([1.0]), reference=card([1.0], tasks_digest=other), bar=BAR)
    assert other in error.value.message
    with pytest.raises(EvaluationError, match="`retrieval` is judged against one of `reasoning`"):
        judge(card([1.0]), reference=card([1.0], task_type="reasoning"), bar=BAR)
    with pytest.raises(EvaluationError, match="other tasks"):
        SequentialJudge(references={1: card([1.0])}, bars=[BAR], tasks_digest=other)


def test_a_reference_that_lacks_a_sample_is_refused():
    with pytest.raises(EvaluationError, match="sample 1 of `t` is not among the reference's"):
        judge(card([1.0, 1.0]), reference=card([1.0], subject="r"), bar=BAR)


def test_a_sample_that_appears_twice_is_refused():
    doubled = card([1.0, 1.0])
    doubled = doubled.model_copy(update={"outcomes": (doubled.outcomes[0],) * 2})
    with pytest.raises(EvaluationError, match="appears twice"):
        judge(doubled, reference=card([1.0, 1.0], subject="r"), bar=BAR)


def test_an_empty_scorecard_is_refused():
    with pytest.raises(EvaluationError, match="has no outcome"):
        judge(card([], available=5), reference=card([1.0] * 5, subject="r"), bar=BAR)


def test_a_bar_without_its_reference_is_refused():
    with pytest.raises(EvaluationError, match="tier 1 has no reference"):
        SequentialJudge(references={}, bars=[BAR])
