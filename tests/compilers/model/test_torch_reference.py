"""The torch reference as a session, and against transformers' own forward pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from compilers.model.torch_reference import TorchSession, load_model
from compilers.runtime import Segment, Session
from registry.errors import CheckpointError
from tests.compilers.session_contract import SessionContract, draw

SHAPES = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "qwen2 with windows": {
        "architecture": "Qwen2ForCausalLM",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
        "tie_word_embeddings": True,
    },
    "mistral with a window": {"architecture": "MistralForCausalLM", "sliding_window": 7, "head_dim": 24},
}


class TestTorchSession(SessionContract):
    @pytest.fixture(scope="class", params=SHAPES)
    @classmethod
    def session(cls, request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path]) -> Session:
        return TorchSession(checkpoint_of(**SHAPES[request.param]))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_equals_transformers_own_forward_pass(shape: str, checkpoint_of: Callable[..., Path]) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    tokens = draw(0, 40)
    with torch.no_grad():
        expected = load_model(checkpoint)(torch.tensor([tokens])).logits[0].numpy()
    session = TorchSession(checkpoint)
    cache = session.new_cache(rows=1, capacity=40)
    found = session.forward(cache, [Segment(0, tokens[:13], "all")])
    found += session.forward(cache, [Segment(0, tokens[13:], "all")])
    np.testing.assert_allclose(np.concatenate(found), expected, atol=2e-5)


def test_replaced_weights_are_used_and_must_fit(checkpoint_of: Callable[..., Path]) -> None:
    checkpoint = checkpoint_of(architecture="LlamaForCausalLM", tie_word_embeddings=True)
    state = {name: value.numpy() for name, value in load_model(checkpoint).state_dict().items()}
    del state["lm_head.weight"]
    tokens = draw(1, 9)

    def logits(weights: dict[str, np.ndarray]) -> np.ndarray:
        session = TorchSession(checkpoint, weights=weights)
        return session.forward(session.new_cache(rows=1, capacity=9), [Segment(0, tokens, "all")])[0]

    same = logits(state)
    untied = logits({**state, "lm_head.weight": 2 * state["model.embed_tokens.weight"]})
    np.testing.assert_allclose(untied, 2 * same, rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match="do not fit"):
        logits({name: value for name, value in state.items() if name != "model.norm.weight"})
