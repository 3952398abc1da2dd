"""Scores of continuations against one plain pass per continuation."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import evals.batch
from evals import likelihood
from evals.batch import SampleBatch
from evals.likelihood import Continuation, Likelihood, score_continuations
from registry.errors import EvaluationError
from tests.evals.torch_session import RecomputingSession

TOKENS = st.lists(st.integers(3, 290), min_size=1, max_size=6)
CASES = st.lists(st.tuples(st.lists(TOKENS, min_size=1, max_size=3), TOKENS), min_size=1, max_size=5)


def plainly(session: RecomputingSession, continuation: Continuation) -> Likelihood:
    whole = [*continuation.context, *continuation.tokens][-(session.max_context + 1) :]
    with torch.no_grad():
        logits = session.model(torch.tensor([whole[:-1]])).logits[0].double()
    rows = logits[-len(continuation.tokens) :]
    targets = torch.tensor(list(continuation.tokens))
    value = rows.log_softmax(-1).gather(1, targets[:, None]).sum()
    return Likelihood(float(value), bool((rows.argmax(-1) == targets).all()))


def same(found: list[Likelihood], expected: list[Likelihood]) -> None:
    assert [one.is_greedy for one in found] == [one.is_greedy for one in expected]
    assert [one.log_probability for one in found] == pytest.approx(
        [one.log_probability for one in expected], abs=2e-5, rel=2e-6
    )


@given(cases=CASES, batch_size=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_scores_are_those_of_one_plain_pass_each(
    byte_session: RecomputingSession, cases: list[tuple[list[list[int]], list[int]]], batch_size: int
) -> None:
    continuations = [
        Continuation(context, tokens) for choices, context in cases for tokens in (*choices, choices[0])
    ]
    found = score_continuations(SampleBatch(byte_session, batch_size=batch_size), continuations)
    same(found, [plainly(byte_session, one) for one in continuations])


def test_a_greedy_continuation_is_recognised(byte_session: RecomputingSession) -> None:
    whole = [5, 9, 17]
    for _ in range(4):
        with torch.no_grad():
            whole.append(int(byte_session.model(torch.tensor([whole])).logits[0, -1].argmax()))
    wrong = [*whole[3:-1], (whole[-1] + 1) % 300]
    found = score_continuations(
        SampleBatch(byte_session, batch_size=2),
        [Continuation(whole[:3], whole[3:]), Continuation(whole[:3], wrong)],
    )
    assert [one.is_greedy for one in found] == [True, False]


@pytest.mark.parametrize("extra", [-1, 0, 1, 2, 40])
def test_a_context_that_is_too_long_is_cut_from_the_left(
    byte_session: RecomputingSession, extra: int
) -> None:
    tokens = [(7 * number) % 290 + 3 for number in range(byte_session.max_context + extra)]
    continuations = [Continuation(tokens[:-3], tokens[-3:]), Continuation(tokens[:-3], [4])]
    found = score_continuations(SampleBatch(byte_session, batch_size=2), continuations)
    same(found, [plainly(byte_session, one) for one in continuations])


def test_a_continuation_may_fill_the_window_and_no_more(byte_session: RecomputingSession) -> None:
    full = Continuation([5], list(range(10, 10 + byte_session.max_context)))
    rows = SampleBatch(byte_session, batch_size=1)
    same(score_continuations(rows, [full]), [plainly(byte_session, full)])
    with pytest.raises(EvaluationError, match="choice 0 has 129 tokens, the context window 128"):
        score_continuations(rows, [Continuation([5], [6] * 129)])


@pytest.mark.parametrize("continuation", [Continuation([5], []), Continuation([], [5])])
def test_an_empty_side_is_refused(byte_session: RecomputingSession, continuation: Continuation) -> None:
    with pytest.raises(EvaluationError, match="choice 0 has"):
        score_continuations(SampleBatch(byte_session, batch_size=1), [continuation])


def test_choices_of_one_context_run_it_once_and_single_tokens_share_its_logits(
    byte_model_calls: RecomputingSession,
) -> None:
    context = list(range(10, 50))
    singles = [Continuation(context, [token]) for token in (5, 6, 7, 8)]
    score_continuations(SampleBatch(byte_model_calls, batch_size=8), singles)
    assert byte_model_calls.calls == [40]
    byte_model_calls.calls.clear()
    pairs = [Continuation(context, [token, 9]) for token in (5, 6, 7)]
    same_head = [Continuation(context, [5, 9]), Continuation(context, [5, 11])]
    score_continuations(SampleBatch(byte_model_calls, batch_size=8), [*pairs, *same_head])
    assert byte_model_calls.calls == [40, 1, 1, 1]


def test_logits_of_long_continuations_come_in_pieces(
    byte_model_calls: RecomputingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    continuations = [
        Continuation([5, 6], list(range(10, 60))),
        Continuation([5, 6, 7], list(range(10, 33))),
        Continuation([9], [4, 4]),
    ]
    expected = score_continuations(SampleBatch(byte_model_calls, batch_size=3), continuations)
    monkeypatch.setattr(likelihood, "_LOGITS_BYTES", 4 * 300 * 3 * 8)
    byte_model_calls.calls.clear()
    same(score_continuations(SampleBatch(byte_model_calls, batch_size=3), continuations), expected)
    assert max(byte_model_calls.calls) <= 3 * 8


def test_many_continuations_of_one_context_share_rows_in_parallel(
    byte_model_calls: RecomputingSession,
) -> None:
    continuations = [Continuation([5, 6], [token, token + 1, 9]) for token in range(10, 30)]
    found = score_continuations(SampleBatch(byte_model_calls, batch_size=4), continuations)
    assert byte_model_calls.calls == [6, *[6] * 4, *[4] * 4]  # 8 + 8 + 4 continuations of 2 tokens on 3 rows
    same(found, [plainly(byte_model_calls, one) for one in continuations])


def test_long_prompts_run_a_few_at_a_time(
    byte_model_calls: RecomputingSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    continuations = [Continuation(list(range(3, 3 + size)), [9]) for size in (40, 39, 12, 11, 10, 3)]
    expected = [plainly(byte_model_calls, one) for one in continuations]
    monkeypatch.setattr(evals.batch, "_CALL_TOKENS", 45)
    byte_model_calls.calls.clear()
    same(score_continuations(SampleBatch(byte_model_calls, batch_size=6), continuations), expected)
    assert byte_model_calls.calls == [40, 39, 12 + 11 + 10, 3]


def test_logits_that_are_not_numbers_are_refused(byte_session: RecomputingSession) -> None:
    damaged = RecomputingSession(copy.deepcopy(byte_session.model))
    with torch.no_grad():
        damaged.model.lm_head.weight[7] = float("nan")
    with pytest.raises(EvaluationError, match="logits that are not finite"):
        score_continuations(SampleBatch(damaged, batch_size=1), [Continuation([5], [6])])


def test_a_token_outside_the_vocabulary_is_refused(byte_session: RecomputingSession) -> None:
    with pytest.raises(EvaluationError, match="choice 0 holds token 300, the vocabulary ends at 300"):
        score_continuations(SampleBatch(byte_session, batch_size=1), [Continuation([5], [300])])


def test_large_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0, -1e4], [-3e38, -3e38, -3e38]], dtype=np.float32)
    found = likelihood._log_normaliser(logits)
    assert found[0] == pytest.approx(1e4)
    assert found[1] == pytest.approx(float(np.float32(-3e38)) + math.log(3))


@pytest.fixture
def byte_model_calls(byte_session: RecomputingSession) -> RecomputingSession:
    byte_session.calls.clear()
    return byte_session
