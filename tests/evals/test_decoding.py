"""Batched greedy decoding against one prompt at a time."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from compilers.model.tokenizer import Tokenizer
from evals.batch import SampleBatch
from evals.decoding import Prompt, decode_greedily
from tests.evals.torch_session import RecomputingSession

PROMPTS = st.lists(
    st.builds(
        Prompt,
        tokens=st.lists(st.integers(3, 250), min_size=1, max_size=12),
        max_new_tokens=st.integers(1, 12),
        stops=st.lists(st.sampled_from([" ", "e", "th", "é", "zz", "\n\n"]), max_size=2).map(tuple),
    ),
    max_size=9,
)


def plainly(session: RecomputingSession, tokenizer: Tokenizer, prompt: Prompt) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < prompt.max_new_tokens:
        with torch.no_grad():
            logits = session.model(torch.tensor([[*prompt.tokens, *tokens]])).logits[0, -1]
        tokens.append(int(logits.argmax()))
        text = tokenizer.decode(tokens)
        if tokens[-1] in tokenizer.eos_token_ids or any(stop in text for stop in prompt.stops):
            break
    return tokens


@given(prompts=PROMPTS, batch_size=st.integers(1, 4))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_decodes_each_prompt_as_if_alone(
    byte_session: RecomputingSession, byte_tokenizer: Tokenizer, prompts: list[Prompt], batch_size: int
) -> None:
    rows = SampleBatch(byte_session, batch_size=batch_size)
    finished: list[int] = []
    found = decode_greedily(rows, prompts, tokenizer=byte_tokenizer, progress=finished.append)
    assert found == [plainly(byte_session, byte_tokenizer, prompt) for prompt in prompts]
    assert sum(finished) == len(prompts)


def test_eos_ends_a_generation_and_is_returned(
    byte_session: RecomputingSession, byte_tokenizer: Tokenizer
) -> None:
    prompt = Prompt([20, 21, 22], 6)
    free = decode_greedily(SampleBatch(byte_session, batch_size=1), [prompt], tokenizer=byte_tokenizer)[0]
    byte_tokenizer_ids = byte_tokenizer.eos_token_ids
    try:
        byte_tokenizer.eos_token_ids = (free[2],)
        found = decode_greedily(SampleBatch(byte_session, batch_size=1), [prompt], tokenizer=byte_tokenizer)[
            0
        ]
    finally:
        byte_tokenizer.eos_token_ids = byte_tokenizer_ids
    assert found == free[: free.index(free[2]) + 1]


def test_the_cache_is_made_once_for_prompts_of_like_length(byte_session: RecomputingSession) -> None:
    rows = SampleBatch(byte_session, batch_size=2)
    first = rows.empty(capacity=20)
    assert rows.empty(capacity=30) is first
    assert first.capacity == 64
    assert rows.empty(capacity=100) is not first
    assert rows.empty(capacity=128).capacity == byte_session.max_context
