"""Checkpoints with outliers through every toolchain that rounds inputs: as torch on the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import FloatArray, Segment, Session
from registry.target import find_target, missing_features
from tests.checkpoints import make_checkpoint
from tests.compilers.conftest import Built, this_host
from tests.compilers.outliers import plant_outliers
from tests.compilers.session_contract import draw

CASES = [
    ("onnxruntime", "cpu-x86-64-v3", "w8a8-dynamic", False),
    ("onnxruntime", "cpu-x86-64-v3", "w8a8-dynamic", True),
    ("onnxruntime", "cpu-x86-64-v3", "w8g64-rtn", True),
    ("onnxruntime", "cpu-x86-64-v3", "w4g32-rtn", False),
    ("tvm", "cpu-x86-64-v3", "w8a8-dynamic", False),
    ("tvm", "cpu-x86-64-v3", "w4g32-rtn", True),
    ("tvm", "cpu-x86-64-v4-vnni", "w8a8-dynamic", True),
    ("tvm", "cpu-x86-64-v4-vnni", "w4g128-rtn", False),
]
"""Toolchain, target, recipe, and whether embedding and output matrix are tied."""
IDS = [draw(60, 100), draw(61, 9), draw(62, 97), draw(63, 90)]


def logits_of(session: Session) -> FloatArray:
    """Of all sequences: most of them at once, the last tokens one by one."""
    cache = session.new_cache(rows=len(IDS), capacity=100)
    first = session.forward(cache, [Segment(row, ids[:-3], "all") for row, ids in enumerate(IDS)])
    found = [[one] for one in first]
    for row, ids in enumerate(IDS):
        for token in ids[-3:]:
            found[row] += session.forward(cache, [Segment(row, [token])])
    return np.concatenate([np.concatenate(parts) for parts in found])


def checkpoint_with_outliers(folder: Path, *, tied: bool) -> Path:
    """One with outlier channels in front of three kinds of matrices, the output matrix among them."""
    shape: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "vocab_size": 301}
    made = make_checkpoint(folder, architecture="Qwen2ForCausalLM", tie_word_embeddings=tied, **shape)
    plant_outliers(
        made,
        {
            "model.layers.0.input_layernorm.weight": {3: 120.0},
            "model.layers.1.post_attention_layernorm.weight": {7: -500.0, 80: 90.0},
            "model.norm.weight": {11: 40.0},
        },
    )
    return made


@pytest.mark.parametrize(("toolchain", "target", "recipe", "tied"), CASES)
def test_outliers_cost_no_more_than_the_weights(
    toolchain: str, target: str, recipe: str, tied: bool, tmp_path: Path
) -> None:
    if missing_features(this_host(), target=find_target(target)):
        pytest.skip(f"this processor cannot run {target}")
    checkpoint = checkpoint_with_outliers(tmp_path / "checkpoint", tied=tied)
    (tmp_path / "out").mkdir()
    built = Built(checkpoint, tmp_path / "out", recipe=recipe, toolchain=toolchain, target=target)
    assert len(built.report.wide_inputs) >= 6
    weights = dequantized_state(built.weights, built.recipe)
    found, expected = logits_of(built.load()), logits_of(TorchSession(checkpoint, weights=weights))
    changed = 0.05 if built.recipe.weights == "int4" else 0.02
    assert float(np.mean(found.argmax(-1) != expected.argmax(-1))) <= changed
    assert float(np.sqrt(np.mean((found - expected) ** 2))) <= 0.03 * float(expected.std())
