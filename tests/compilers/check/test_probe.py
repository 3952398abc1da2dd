"""Parity: what is built as it should be is within its bound, and what is damaged is not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilers.check.measure import kl_divergence
from compilers.check.probe import (
    MAX_LOGITS,
    SHORTEST,
    make_probe,
    positions_of,
    reference_logits,
    stepwise_logits,
)
from compilers.model.weights import read_layout
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import FloatArray, Segment, Session
from registry.errors import BuildError
from registry.recipe import parse_recipe
from tests.compilers.references import references_of
from tests.compilers.session_contract import draw

RECIPES = ("fp32", "fp16", "w8a8-dynamic", "w8g32-rtn", "w4g32-rtn", "w4g32-gptq", "w4g64-gptq")
QUANTIZED = [recipe for recipe in RECIPES if recipe.startswith("w")]
TEXTS = [draw(100 + seed, 20 + 3 * seed) for seed in range(24)]
SHAPE = {"architecture": "Qwen2ForCausalLM", "hidden_size": 128, "intermediate_size": 192}


def scramble(weights: Path, *, suffix: str, share: float) -> None:
    """Multiply every float32 tensor of that suffix by 1 + share · normal noise."""
    noise = np.random.default_rng(5)
    content = bytearray(weights.read_bytes())
    for name, tensor in read_layout(weights).tensors.items():
        if name.endswith(suffix):
            end = tensor.offset + tensor.size_bytes
            values = np.frombuffer(content[tensor.offset : end], np.float32)
            damaged = values * (1 + share * noise.standard_normal(values.shape)).astype(np.float32)
            content[tensor.offset : end] = damaged.tobytes()
    weights.unlink()
    weights.write_bytes(content)


class Measured:
    """A variant, what torch says of it, and what it is held against."""

    def __init__(self, checkpoint: Path, built: Any) -> None:
        self.built = built
        self.probe = make_probe(TEXTS, vocab_size=300, max_context=128)
        weights = dequantized_state(built.weights, built.recipe)
        self.references = references_of(checkpoint, self.probe, weights=weights)

    def parity(self, session: Session) -> Any:
        return self.references.parity(session, recipe=self.built.recipe, toolchain="onnxruntime")


@pytest.fixture(scope="module")
def measured(checkpoint_of: Callable[..., Path], build: Callable[..., Any]) -> Callable[[str], Measured]:
    made: dict[str, Measured] = {}

    def measure(recipe: str) -> Measured:
        if recipe not in made:
            checkpoint = checkpoint_of(**SHAPE)
            made[recipe] = Measured(checkpoint, build(checkpoint, recipe=recipe, calibration=TEXTS))
        return made[recipe]

    return measure


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_artifact_as_built_is_within_its_bound(recipe: str, measured: Callable[[str], Measured]) -> None:
    case = measured(recipe)
    parity = case.parity(case.built.load())
    assert parity.within, parity.reason
    assert parity.positions == positions_of(case.probe)
    assert parity.rms <= parity.max_abs


@pytest.mark.parametrize("recipe", QUANTIZED)
def test_scales_that_are_off_by_three_percent_are_caught(
    recipe: str, measured: Callable[[str], Measured], tmp_path: Path
) -> None:
    case = measured(recipe)
    shutil.copytree(case.built.out, tmp_path / "damaged")
    scramble(tmp_path / "damaged" / "weights.safetensors", suffix=".scales", share=0.03)
    undamaged, case.built.out = case.built.out, tmp_path / "damaged"
    try:
        parity = case.parity(case.built.load())
    finally:
        case.built.out = undamaged
    assert not parity.within, parity.reason
    assert "bound" in parity.reason


def test_a_norm_that_is_slightly_off_is_caught_in_float(
    measured: Callable[[str], Measured], tmp_path: Path
) -> None:
    case = measured("fp32")
    shutil.copytree(case.built.out, tmp_path / "damaged")
    scramble(tmp_path / "damaged" / "weights.safetensors", suffix="model.norm.weight", share=1e-3)
    undamaged, case.built.out = case.built.out, tmp_path / "damaged"
    try:
        parity = case.parity(case.built.load())
    finally:
        case.built.out = undamaged
    assert not parity.within


def test_another_variants_artifact_is_caught(measured: Callable[[str], Measured]) -> None:
    parity = measured("w8g32-rtn").parity(measured("w4g32-rtn").built.load())
    assert not parity.within


class Stuttering:
    """A session that is wrong only when a row already holds tokens."""

    def __init__(self, session: Session, *, factor: float) -> None:
        self.vocab_size, self.max_context = session.vocab_size, session.max_context
        self.new_cache = session.new_cache
        self._session = session
        self._factor = factor

    def forward(self, cache: Any, segments: list[Segment]) -> list[FloatArray]:
        held = [cache.length(segment.row) for segment in segments]
        found = self._session.forward(cache, segments)
        return [logits * np.float32(self._factor if n else 1) for logits, n in zip(found, held, strict=True)]


def test_an_error_in_decoding_alone_is_caught(measured: Callable[[str], Measured]) -> None:
    case = measured("fp32")
    assert case.parity(Stuttering(case.built.load(), factor=1.0)).within
    assert not case.parity(Stuttering(case.built.load(), factor=1.001)).within


def test_logits_that_are_no_numbers_are_never_within(measured: Callable[[str], Measured]) -> None:
    case = measured("fp32")
    parity = case.parity(Stuttering(case.built.load(), factor=float("nan")))
    assert not parity.within
    assert "NaN" in parity.reason
    assert parity.model_validate_json(parity.model_dump_json()) == parity


def test_references_of_another_probe_are_refused(measured: Callable[[str], Measured]) -> None:
    case = measured("fp32")
    with pytest.raises(BuildError, match="probe"):
        replace(case.references, checkpoint_logits=case.references.checkpoint_logits[:-1]).parity(
            case.built.load(), recipe=parse_recipe("fp32"), toolchain="onnxruntime"
        )


def test_both_ways_through_a_session_give_the_same_logits(measured: Callable[[str], Measured]) -> None:
    case = measured("fp32")
    session = case.built.load()
    np.testing.assert_allclose(
        stepwise_logits(session, case.probe), reference_logits(session, case.probe), atol=1e-4
    )


@given(
    vocab_size=st.integers(2, 400_000),
    max_context=st.integers(1, 100_000),
    lengths=st.lists(st.integers(0, 300), max_size=20),
)
def test_a_probe_fits_vocabulary_context_and_memory(
    vocab_size: int, max_context: int, lengths: list[int]
) -> None:
    texts = [[1] * length for length in lengths]
    probe = make_probe(texts, vocab_size=vocab_size, max_context=max_context)
    assert probe == make_probe(texts, vocab_size=vocab_size, max_context=max_context)
    assert len(probe) >= 2
    assert all(1 <= len(sequence) <= max_context for sequence in probe)
    assert all(0 <= token < vocab_size for sequence in probe for token in sequence)
    assert sum(map(len, probe)) * vocab_size <= max(MAX_LOGITS, 4 * SHORTEST * vocab_size)


def test_kl_divergence_is_zero_for_equal_distributions_and_positive_otherwise() -> None:
    logits = np.random.default_rng(0).standard_normal((5, 40)).astype(np.float32)
    np.testing.assert_allclose(kl_divergence(logits, logits + 3), 0, atol=1e-12)
    assert (kl_divergence(logits, -logits) > 0.1).all()
    half = np.log(np.array([[0.5, 0.5]], np.float32))
    other = np.log(np.array([[0.25, 0.75]], np.float32))
    np.testing.assert_allclose(kl_divergence(half, other), [0.5 * np.log(2) + 0.5 * np.log(2 / 3)], rtol=1e-6)
