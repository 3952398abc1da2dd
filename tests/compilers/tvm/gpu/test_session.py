"""GPU kernels and launches, executed through OpenCL: the session's promises, and parity with torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import FloatArray, Segment, Session
from compilers.tvm.gpu.session import TOKENS_AT_ONCE, GpuSession
from tests.compilers.conftest import Built
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.shapes import SHAPES
from tests.compilers.tvm.gpu.building import rehearsal_of

Builder = Callable[..., Built]
Maker = Callable[..., Path]
SEQUENCES = [draw(0, 90), draw(1, 33), draw(2, 1), draw(3, 14)]
"""Together enough for tiles; then single tokens."""


def logits_of(session: Session, sequences: list[list[int]]) -> FloatArray:
    """All logits: a first part of each row in one batch, some tokens together, the rest one by one."""
    cache = session.new_cache(rows=len(sequences), capacity=max(map(len, sequences)))
    parts = [[ids[: max(1, len(ids) - 9)], ids[max(1, len(ids) - 9) :]] for ids in sequences]
    found = [
        [part] for part in session.forward(cache, [Segment(row, p[0], "all") for row, p in enumerate(parts)])
    ]
    for row, (_, rest) in enumerate(parts):
        if rest:
            found[row] += session.forward(cache, [Segment(row, rest[:6], "all")])
        for token in rest[6:]:
            found[row] += session.forward(cache, [Segment(row, [token])])
    return np.concatenate([np.concatenate(part) for part in found])


def torch_logits(session: TorchSession, sequences: list[list[int]]) -> FloatArray:
    cache = session.new_cache(rows=len(sequences), capacity=max(map(len, sequences)))
    return np.concatenate(
        session.forward(cache, [Segment(row, ids, "all") for row, ids in enumerate(sequences)])
    )


class TestGpuSession(SessionContract):
    @pytest.fixture(scope="class")
    @classmethod
    def session(
        cls, checkpoint_of: Maker, build: Builder, tmp_path_factory: pytest.TempPathFactory
    ) -> Session:
        built = build(checkpoint_of(architecture="LlamaForCausalLM"), recipe="w4g32-rtn")
        return rehearsal_of(built, tmp_path_factory.mktemp("gpu")).session


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "recipe"),
    [
        ("llama with every bias, full attention, tied, heads of 20", "fp16"),
        ("llama with yarn", "fp32"),
        ("llama", "w8g32-rtn"),
        ("qwen2 with a window on one layer", "w4g32-rtn"),
        ("qwen3, heads of 24", "w4g64-rtn"),
    ],
)
def test_logits_are_torchs_on_the_same_weights(
    shape: str, recipe: str, checkpoint_of: Maker, build: Builder, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    built = build(checkpoint, recipe=recipe)
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    found = logits_of(rehearsal_of(built, tmp_path).session, SEQUENCES)
    np.testing.assert_allclose(found, torch_logits(reference, SEQUENCES), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_heads_larger_than_a_block_odd_widths_and_contexts_over_several_chunks_are_torchs(
    checkpoint_of: Maker, build: Builder, tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(
        architecture="MistralForCausalLM", hidden_size=99, intermediate_size=37, head_dim=160,
        num_attention_heads=2, num_key_value_heads=1, vocab_size=301, max_position_embeddings=700,
        sliding_window=200,
    )  # fmt: skip
    built = build(checkpoint, recipe="fp16")
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    sequences = [draw(5, TOKENS_AT_ONCE + 60), draw(6, 300)]
    session = rehearsal_of(built, tmp_path).session
    found = logits_of(session, sequences)
    np.testing.assert_allclose(found, torch_logits(reference, sequences), rtol=0, atol=1e-4)
    assert isinstance(session, GpuSession)
