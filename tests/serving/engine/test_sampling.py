import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.errors import LoadError
from serving.engine.sampling import Sampler, Sampling, logprobs

LOGITS = np.log(np.array([0.5, 0.25, 0.125, 0.0625, 0.0625], dtype=np.float32))


def draws(count=4000, **how):
    sampler = Sampler(Sampling(**how))
    return np.bincount([sampler.draw(LOGITS) for _ in range(count)], minlength=5) / count


def test_tokens_come_as_often_as_their_probability_says():
    assert draws(seed=1) == pytest.approx(np.exp(LOGITS), abs=0.03)


def test_a_low_temperature_prefers_the_likely():
    sharp = np.exp(LOGITS * 2) / np.exp(LOGITS * 2).sum()
    assert draws(seed=1, temperature=0.5) == pytest.approx(sharp, abs=0.03)
    assert draws(count=5, temperature=0.0)[0] == 1.0


def test_top_k_and_top_p_leave_the_others_out():
    assert draws(seed=1, top_k=2) == pytest.approx([2 / 3, 1 / 3, 0, 0, 0], abs=0.03)
    assert draws(seed=1, top_p=0.7) == pytest.approx([2 / 3, 1 / 3, 0, 0, 0], abs=0.03)
    assert draws(seed=1, top_p=0.5, top_k=3)[0] == pytest.approx(1.0)
    assert draws(seed=1, top_p=0.01)[0] == 1.0


def test_choices_that_share_a_seed_differ():
    found = [
        [Sampler(Sampling(seed=7, stream=choice)).draw(LOGITS) for _ in range(1)] for choice in range(30)
    ]
    assert len({tuple(one) for one in found}) > 1


@given(
    row=st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=40),
    token=st.integers(0, 39),
    top=st.integers(0, 50),
)
def test_log_probabilities_are_a_distribution_and_the_best_is_the_same_float(row, token, top):
    logits = np.array([row], dtype=np.float32)
    token %= len(row)
    [score] = logprobs(logits, tokens=[token], top=top)
    values = logits[0].astype(np.float64)
    assert score.logprob == pytest.approx(values[token] - np.logaddexp.reduce(values), abs=1e-4)
    assert len(score.top) == min(top, len(row))
    assert [p for _, p in score.top] == sorted((p for _, p in score.top), reverse=True)
    [best] = logprobs(logits, tokens=[int(values.argmax())], top=1)
    assert best.logprob == best.top[0][1]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(value, temperature):
    broken = LOGITS.copy()
    broken[3] = value
    with pytest.raises(LoadError, match="token 3"):
        Sampler(Sampling(temperature=temperature)).draw(broken)
    with pytest.raises(LoadError, match="token 3"):
        logprobs(np.stack([LOGITS, broken]), tokens=[1, 2], top=2)


def test_logits_that_leave_no_token_are_refused():
    nothing = np.full_like(LOGITS, -np.inf)
    with pytest.raises(LoadError, match="-inf"):
        Sampler(Sampling()).draw(nothing)
    with pytest.raises(LoadError, match="-inf"):
        logprobs(nothing[None], tokens=[0], top=0)


def test_a_token_that_is_ruled_out_is_never_drawn_and_its_probability_is_zero():
    ruled_out = LOGITS.copy()
    ruled_out[4] = -np.inf
    sampler = Sampler(Sampling(seed=1, temperature=100.0))
    assert 4 not in {sampler.draw(ruled_out) for _ in range(500)}
    [score] = logprobs(ruled_out[None], tokens=[4], top=5)
    assert score.logprob == -np.inf
    assert score.top[0][1] == pytest.approx(np.log(0.5 / 0.9375), abs=1e-5)


@given(
    row=st.lists(
        st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False), min_size=2, max_size=40, unique=True
    ),
    temperature=st.sampled_from([5e-324, 1e-310, 2.3e-308, 1e-200, 1e-38]),
    how=st.sampled_from([{}, {"top_k": 3}, {"top_p": 5e-324}, {"top_p": 0.5}]),
)
def test_the_smallest_temperatures_are_greedy(row, temperature, how):
    logits = np.array(row, dtype=np.float32)
    assert Sampler(Sampling(temperature=temperature, seed=0, **how)).draw(logits) == logits.argmax()


@given(
    row=st.lists(
        st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False), min_size=2, max_size=40, unique=True
    ),
    top_p=st.sampled_from([5e-324, 1e-300, 1e-17]),
)
def test_the_smallest_nucleus_is_greedy_at_any_temperature(row, top_p):
    logits = np.array(row, dtype=np.float32)
    found = Sampler(Sampling(temperature=100.0, top_p=top_p, seed=0)).draw(logits)
    # At this temperature the scores of near tokens are equal in float64.
    assert logits[found] == pytest.approx(logits.max(), rel=1e-6, abs=1e-6)
