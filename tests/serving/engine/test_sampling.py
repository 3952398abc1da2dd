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
def test_logits_that_are_no_numbers_are_refused(value):
    broken = LOGITS.copy()
    broken[3] = value
    with pytest.raises(LoadError, match="token 3"):
        Sampler(Sampling(temperature=0.0)).draw(broken)
