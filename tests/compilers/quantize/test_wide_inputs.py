"""Inputs with outliers: where they are found, and that nothing is found where there are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open

from compilers.model.architecture import Architecture, read_architecture
from compilers.model.weights import coded_weights, read_layout, weights_layout
from compilers.quantize.variant import QuantizeReport, quantize
from compilers.quantize.wide_inputs import find_wide_inputs, rounded_inputs, rounding_error
from registry.recipe import parse_recipe
from registry.variant import WEIGHTS_NAME
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX
from tests.checkpoints import make_checkpoint
from tests.compilers.outliers import plant_outliers
from tests.compilers.session_contract import draw

SHAPE: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256}
RECIPES = ("w8a8-dynamic", "w8g32-rtn", "w4g64-rtn")
TEXTS = [draw(seed, 12 + seed) for seed in range(12)]


def architecture_of(checkpoint: Path) -> Architecture:
    return read_architecture(json.loads((checkpoint / "config.json").read_text()), where=str(checkpoint))


def wide_of(checkpoint: Path, recipe: str, texts: list[list[int]] | None = None) -> frozenset[str]:
    architecture = architecture_of(checkpoint)
    matrices = coded_weights(architecture, parse_recipe(recipe))
    return find_wide_inputs(checkpoint, architecture, matrices, TEXTS if texts is None else texts)


def quantized(checkpoint: Path, recipe: str, out: Path) -> QuantizeReport:
    out.mkdir()
    return quantize(
        checkpoint, parse_recipe(recipe), architecture=architecture_of(checkpoint), out=out, calibration=TEXTS
    )


@pytest.mark.parametrize("group", [None, 32])
def test_inputs_are_rounded_as_torch_rounds_with_the_same_steps(group: int | None) -> None:
    inputs = torch.randn(5, 96, generator=torch.Generator().manual_seed(0))
    inputs *= torch.tensor([[1.0], [30.0], [0.1], [2.0], [0.0]])
    inputs[1, 7] = 900.0
    rows = inputs.view(-1, group or 96)
    steps = rows.abs().amax(1).clamp_min(1e-30) / 127
    zeros = torch.zeros(len(rows), dtype=torch.int32)
    oracle = torch.fake_quantize_per_channel_affine(rows, steps, zeros, 0, -127, 127)
    torch.testing.assert_close(rounded_inputs(inputs, group_size=group), oracle.view_as(inputs))


@pytest.mark.parametrize("group", [None, 32])
def test_the_error_of_ordinary_inputs_is_what_rounding_them_makes(group: int | None) -> None:
    inputs = torch.randn(64, 512, generator=torch.Generator().manual_seed(1))
    made = (rounded_inputs(inputs, group_size=group) - inputs).square().mean() / inputs.square().mean()
    assert float(rounding_error(inputs, group_size=group).mean() / made) == pytest.approx(1.0, abs=0.15)


def test_an_outlier_counts_by_what_it_costs_the_others() -> None:
    inputs = torch.randn(8, 256, generator=torch.Generator().manual_seed(2))
    inputs[:, 5] = 300.0
    rest = torch.cat([inputs[:, :5], inputs[:, 6:]], dim=1)
    lost = (rounded_inputs(inputs, group_size=None) - inputs).square().mean() / rest.square().mean()
    assert float(rounding_error(inputs, group_size=None).mean()) == pytest.approx(float(lost), rel=0.3)


@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_checkpoint_without_outliers_has_no_mark_and_the_file_it_always_had(
    architecture: str, recipe: str, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", architecture=architecture, **SHAPE)
    assert wide_of(checkpoint, recipe) == wide_of(checkpoint, recipe, []) == frozenset()
    assert quantized(checkpoint, recipe, tmp_path / "out").wide_inputs == ()
    with safe_open(tmp_path / "out" / WEIGHTS_NAME, framework="np") as file:
        assert file.metadata() is None


@pytest.mark.parametrize("recipe", RECIPES)
def test_matrices_that_read_a_planted_outlier_are_marked(recipe: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **SHAPE)
    plant_outliers(
        checkpoint,
        {
            "model.layers.0.input_layernorm.weight": {3: 300.0},
            "model.layers.1.post_attention_layernorm.weight": {7: -500.0},
        },
    )
    found = wide_of(checkpoint, recipe)
    assert {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qkv"} <= found
    assert {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up")} <= found
    report = quantized(checkpoint, recipe, tmp_path / "out")
    assert report.wide_inputs == tuple(sorted(found))
    layout = weights_layout(architecture_of(checkpoint), parse_recipe(recipe), wide_inputs=found)
    assert read_layout(tmp_path / "out" / WEIGHTS_NAME) == layout


@pytest.mark.parametrize(("tied", "name"), [(True, EMBEDDING), (False, OUTPUT_MATRIX)])
def test_outliers_before_the_output_matrix_mark_it_and_never_a_lookup(
    tied: bool, name: str, tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=tied, **SHAPE)
    plant_outliers(checkpoint, {"model.norm.weight": {9: 400.0}})
    found = wide_of(checkpoint, "w8a8-dynamic")
    assert name in found
    assert tied or EMBEDDING not in found


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "w8a16"])
def test_recipes_that_round_no_inputs_to_8_bits_mark_nothing(recipe: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", **SHAPE)
    plant_outliers(checkpoint, {"model.layers.0.input_layernorm.weight": {3: 300.0}})
    assert quantized(checkpoint, recipe, tmp_path / "out").wide_inputs == ()


def test_with_the_marks_rounding_leaves_the_likeliest_tokens_as_they_are(tmp_path: Path) -> None:
    from compilers.model.torch_reference import load_model

    checkpoint = make_checkpoint(tmp_path / "checkpoint", **SHAPE)
    plant_outliers(checkpoint, {"model.layers.0.input_layernorm.weight": {3: 300.0}})
    marked = wide_of(checkpoint, "w8a8-dynamic")
    matrices = coded_weights(architecture_of(checkpoint), parse_recipe("w8a8-dynamic")).keys() - {EMBEDDING}
    model, ids = load_model(checkpoint), torch.tensor([draw(seed, 100) for seed in range(50, 58)])

    def changed(rounded: frozenset[str] | set[str]) -> float:
        """The share of likeliest tokens that change, by torch's own rounding in the place of the inputs."""

        def hook(module: Any, taken: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            rows = taken[0].flatten(end_dim=-2)
            steps, zeros = rows.abs().amax(1) / 127, torch.zeros(len(rows), dtype=torch.int32)
            made = torch.fake_quantize_per_channel_affine(rows, steps, zeros, 0, -127, 127)
            return (made.view_as(taken[0]),)

        with torch.no_grad():
            exact = model(ids).logits.argmax(-1)
            modules = [model.get_submodule(name.removesuffix(".weight")) for name in rounded]
            handles = [module.register_forward_pre_hook(hook) for module in modules]
            found = model(ids).logits.argmax(-1)
            for handle in handles:
                handle.remove()
        return float(np.mean((found != exact).numpy()))

    assert changed(matrices - marked) <= 0.01
    assert changed(set(matrices)) >= 0.03
