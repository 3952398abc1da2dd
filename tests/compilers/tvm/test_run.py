"""Lowered bundles in TVM: the session's promises, and parity with torch for every form of weights."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compilers.model.torch_reference import TorchSession
from compilers.model.weights import read_layout
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import FloatArray, Segment, Session
from compilers.toolchain import LoweringInput
from compilers.tvm.common.forms import forms_of
from compilers.tvm.cpu.session import TOKENS_AT_ONCE
from compilers.tvm.lower import TvmToolchain
from registry.target import find_target, missing_features
from tests.compilers.conftest import Built, this_host
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.shapes import SHAPES

Builder = Callable[..., Built]
Maker = Callable[..., Path]
ODD: dict[str, Any] = {
    "architecture": "Qwen2ForCausalLM", "hidden_size": 96, "intermediate_size": 160, "head_dim": 40,
    "num_attention_heads": 3, "num_key_value_heads": 1, "vocab_size": 301,
}  # fmt: skip
"""Widths that are multiples of 32 but of no tile, biases, a vocabulary that no tile divides."""


def logits_of(session: Session, sequences: list[list[int]]) -> FloatArray:
    """All logits: a first part of each row in one batch, the rest token by token."""
    cache = session.new_cache(rows=len(sequences), capacity=max(map(len, sequences)))
    first = session.forward(
        cache, [Segment(row, ids[: max(1, len(ids) - 3)], "all") for row, ids in enumerate(sequences)]
    )
    found = [[part] for part in first]
    for row, ids in enumerate(sequences):
        for token in ids[max(1, len(ids) - 3) :]:
            found[row] += session.forward(cache, [Segment(row, [token])])
    return np.concatenate([np.concatenate(parts) for parts in found])


def torch_logits(session: TorchSession, sequences: list[list[int]]) -> FloatArray:
    cache = session.new_cache(rows=len(sequences), capacity=max(map(len, sequences)))
    return np.concatenate(
        session.forward(cache, [Segment(row, ids, "all") for row, ids in enumerate(sequences)])
    )


SEQUENCES = [draw(0, 90), draw(1, 33), draw(2, 1), draw(3, 14)]


class TestFloatSession(SessionContract):
    @pytest.fixture(scope="class", params=["llama", "mistral with a window of 7, heads of 48"])
    @classmethod
    def session(cls, request: pytest.FixtureRequest, checkpoint_of: Maker, build: Builder) -> Session:
        return build(checkpoint_of(**SHAPES[request.param]), toolchain="tvm").load()


class TestGroupedSession(SessionContract):
    """Weights in groups: activations are rounded to 8 bits, per token and group."""

    tolerance = 5e-5

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, checkpoint_of: Maker, build: Builder) -> Session:
        checkpoint = checkpoint_of(architecture="LlamaForCausalLM")
        return build(checkpoint, recipe="w4g32-rtn", toolchain="tvm").load()


@pytest.mark.parametrize("shape", SHAPES)
def test_float_logits_are_torchs(shape: str, checkpoint_of: Maker, build: Builder) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    found = logits_of(build(checkpoint, toolchain="tvm").load(), SEQUENCES)
    np.testing.assert_allclose(found, torch_logits(TorchSession(checkpoint), SEQUENCES), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("recipe", "tolerance"),
    # Activations of 16 bits have a relative error of about 1e-5 per product.
    [("fp16", 1e-4), ("w8g32-rtn", 1e-3), ("w8g128-rtn", 1e-3)],
)
def test_logits_are_torchs_on_the_dequantized_weights(
    recipe: str, tolerance: float, checkpoint_of: Maker, build: Builder
) -> None:
    group = 128 if "g128" in recipe else 32
    checkpoint = checkpoint_of(**ODD | ({"hidden_size": 128} if group == 128 else {}))
    built = build(checkpoint, recipe=recipe, toolchain="tvm")
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    found = logits_of(built.load(), SEQUENCES)
    np.testing.assert_allclose(found, torch_logits(reference, SEQUENCES), rtol=0, atol=tolerance)


def round_activations(_: torch.nn.Module, given: tuple[torch.Tensor, ...], *, group: int | None) -> Any:
    """Per group, or per token, to 8 bits."""
    x = given[0]
    grouped = x.unflatten(-1, (-1, group or x.shape[-1]))
    peak = grouped.abs().amax(-1, keepdim=True).clamp_min(1e-30)
    return ((torch.round(grouped * (127 / peak)) * (peak / 127)).flatten(-2),)


@pytest.mark.parametrize(
    ("recipe", "group", "hidden_size"),
    [
        ("w4g32-rtn", 32, 96),
        ("w4g64-rtn", 64, 192),
        ("w4g128-rtn", 128, 128),
        ("w8a8-dynamic", None, 96),
        ("w8a8-dynamic", None, 99),
    ],
)
def test_logits_are_torchs_with_activations_rounded_to_8_bits(
    recipe: str, group: int | None, hidden_size: int, checkpoint_of: Maker, build: Builder
) -> None:
    checkpoint = checkpoint_of(**ODD | {"hidden_size": hidden_size})
    built = build(checkpoint, recipe=recipe, toolchain="tvm")
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    coded = codes_of(built.weights)
    for name, part in reference.model.named_modules():
        if isinstance(part, torch.nn.Linear) and f"{name}.weight" in coded:
            own = group and part.in_features // coded[f"{name}.weight"]
            part.register_forward_pre_hook(functools.partial(round_activations, group=own))
    # One activation on the edge between two integers is enough for a difference of this size, but not more.
    difference = np.abs(logits_of(built.load(), SEQUENCES) - torch_logits(reference, SEQUENCES))
    assert np.median(difference) < 3e-5
    assert difference.max() < 5e-2


def codes_of(weights: Path) -> dict[str, int]:
    """Names of the matrices that are stored as codes, with the number of groups of a row."""
    forms = {
        n.removesuffix(".codes"): f for n, f in forms_of(read_layout(weights)).items() if n.endswith(".codes")
    }
    return {name: form.shape[1] for name, form in forms.items()}


@pytest.fixture(params=["cpu-x86-64-v4", "cpu-x86-64-v4-vnni"])
def wide_target(request: pytest.FixtureRequest) -> str:
    if lacks := missing_features(this_host(), target=find_target(request.param)):
        pytest.skip(f"this host lacks {', '.join(lacks)}")
    return request.param


@pytest.mark.parametrize("recipe", ["fp32", "w4g32-rtn", "w8a8-dynamic"])
def test_every_target_computes_the_same(
    wide_target: str, recipe: str, checkpoint_of: Maker, build: Builder, tmp_path: Path
) -> None:
    narrow = build(checkpoint_of(**ODD), recipe=recipe, toolchain="tvm")
    expected = logits_of(narrow.load(), SEQUENCES)
    source = LoweringInput(narrow.recipe, narrow.facts, narrow.out / "graph" / "model.onnx", narrow.weights)
    lowered = TvmToolchain().lower(source, find_target(wide_target), out=tmp_path)
    (tmp_path / "weights.safetensors").symlink_to(narrow.weights)
    narrow.out = tmp_path
    narrow.manifest = narrow.manifest.model_copy(update={"target": wide_target, "entry": lowered.entry})
    difference = np.abs(logits_of(narrow.load(), SEQUENCES) - expected)
    assert np.median(difference) < 5e-5
    assert difference.max() < (1e-3 if recipe == "fp32" else 0.2)


def test_a_batch_longer_than_one_piece_equals_its_parts(checkpoint_of: Maker, build: Builder) -> None:
    session = build(checkpoint_of(architecture="LlamaForCausalLM"), toolchain="tvm").load()
    rows = TOKENS_AT_ONCE // 100 + 2
    sequences = [draw(100 + row, 100) for row in range(rows)]
    cache = session.new_cache(rows=rows, capacity=100)
    segments = [Segment(row, ids, "all" if row % 2 else "last") for row, ids in enumerate(sequences)]
    found = session.forward(cache, segments)
    for ids, logits in zip(sequences, found, strict=True):
        alone = session.new_cache(rows=1, capacity=100)
        expected = session.forward(alone, [Segment(0, ids, "all")])[0][-len(logits) :]
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5)


def test_two_threads_compute_what_one_does(checkpoint_of: Maker, build: Builder) -> None:
    built = build(
        checkpoint_of(architecture="LlamaForCausalLM", hidden_size=256, intermediate_size=1024),
        toolchain="tvm",
    )
    expected = logits_of(built.load(threads=1), SEQUENCES)
    np.testing.assert_array_equal(logits_of(built.load(threads=2), SEQUENCES), expected)


def test_a_cache_of_another_session_is_refused(checkpoint_of: Maker, build: Builder) -> None:
    from registry.errors import LoadError

    built = build(checkpoint_of(architecture="LlamaForCausalLM"), toolchain="tvm")
    first, second = built.load(), built.load()
    with pytest.raises(LoadError, match="not made by this session"):
        first.forward(second.new_cache(rows=1, capacity=8), [Segment(0, [1])])


def test_the_plan_names_every_tensor_of_the_weights_file(checkpoint_of: Maker, build: Builder) -> None:
    built = build(checkpoint_of(architecture="Qwen3ForCausalLM"), recipe="w8g32-rtn", toolchain="tvm")
    plan = json.loads((built.out / "plan.json").read_text())
    used = {name for p in plan["parameters"] for fill in p["fills"] for name in fill["sources"]}
    used |= {p["alias"] for p in plan["parameters"]} - {None}
    assert used == set(plan["tensors"])
