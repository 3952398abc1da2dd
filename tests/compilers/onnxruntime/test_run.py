"""Lowered bundles in ONNX Runtime: the session's promises, parity with torch, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compilers.model.torch_reference import TorchSession
from compilers.runtime import Segment, Session
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.shapes import SHAPES


class TestFloatSession(SessionContract):
    @pytest.fixture(scope="class", params=["llama", "mistral with a window of 7, heads of 48"])
    @classmethod
    def session(
        cls, request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path], build: Callable[..., Any]
    ) -> Session:
        return build(checkpoint_of(**SHAPES[request.param])).load()


class TestIntegerSession(SessionContract):
    """Weights in groups and integer activations: rows must still not see each other."""

    tolerance = 5e-3  # a sum in another order may round one activation to the next integer

    @pytest.fixture(scope="class", params=["w8a8-dynamic", "w4g32-rtn", "w8g32-rtn"])
    @classmethod
    def session(
        cls, request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path], build: Callable[..., Any]
    ) -> Session:
        return build(checkpoint_of(architecture="LlamaForCausalLM"), recipe=request.param).load()


@pytest.mark.parametrize("shape", SHAPES)
def test_float_logits_are_torchs_in_prefill_and_decode(
    shape: str, checkpoint_of: Callable[..., Path], build: Callable[..., Any]
) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    tokens = [draw(seed, count) for seed, count in ((0, 60), (1, 33), (2, 1))]
    reference = TorchSession(checkpoint)
    cache = reference.new_cache(rows=3, capacity=60)
    expected = reference.forward(cache, [Segment(row, ids, "all") for row, ids in enumerate(tokens)])
    session = build(checkpoint).load()
    cache = session.new_cache(rows=3, capacity=60)
    found = session.forward(cache, [Segment(row, ids[:12], "all") for row, ids in enumerate(tokens)])
    for step in range(12, 60):
        going = [row for row in range(3) if len(tokens[row]) > step]
        logits = session.forward(cache, [Segment(row, [tokens[row][step]]) for row in going])
        for row, one in zip(going, logits, strict=True):
            found[row] = np.concatenate([found[row], one])
    for row in range(3):
        np.testing.assert_allclose(found[row], expected[row], rtol=0, atol=1e-4)
