"""Codes and scales: what rounding and GPTQ promise, and that storing them loses nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compilers.quantize.canonical import pack, unpack
from compilers.quantize.coded import Coded, CodedMatrix
from compilers.quantize.gptq import gptq_matrix
from compilers.quantize.rtn import round_to_nearest
from registry.recipe import parse_recipe
from registry.weight_form import CodedWeights

NAMES = ["w4g32-rtn", "w4g64-gptq", "w8g32-rtn", "w8g128-rtn", "w8a8-dynamic"]
WORST = {"w4g32-rtn": 0.01, "w4g64-gptq": 0.012, "w8g32-rtn": 5e-5, "w8g128-rtn": 8e-5, "w8a8-dynamic": 2e-4}


def coded_form(recipe: str) -> CodedWeights:
    form = parse_recipe(recipe).form("model.layers.0.mlp.down_proj.weight")
    assert isinstance(form, CodedWeights)
    return form


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def error(weight: torch.Tensor, coded: Coded) -> float:
    return CodedMatrix.of("w", weight, coded).relative_error


@pytest.mark.parametrize("name", NAMES)
def test_rounding_keeps_codes_on_the_grid_and_the_error_small(name: str) -> None:
    form = coded_form(name)
    weight = normal(1, 48, 256)
    coded = round_to_nearest(weight, form)
    assert int(coded.codes.min()) >= form.low
    assert int(coded.codes.max()) <= form.high
    assert error(weight, coded) < WORST[name]


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000), rows=st.integers(1, 5), groups=st.integers(1, 3), scale=st.floats(1e-6, 1e4)
)
def test_what_is_stored_stands_for_the_same_matrix(
    name: str, seed: int, rows: int, groups: int, scale: float
) -> None:
    form = coded_form(name)
    weight = normal(seed, rows, groups * (form.group_size or 7)) * scale
    coded = round_to_nearest(weight, form)
    codes, scales = pack(coded, form)
    assert np.isfinite(scales).all()
    np.testing.assert_array_equal(unpack(codes, scales, form), coded.dequantized().numpy())


@pytest.mark.parametrize("name", NAMES)
def test_a_matrix_that_is_on_the_grid_is_kept_exactly(name: str) -> None:
    form = coded_form(name)
    codes = torch.randint(form.low, form.high + 1, (6, 256), generator=torch.Generator().manual_seed(0))
    codes[:, :: form.group_size or 256] = form.low  # each group reaches the end of the grid
    weight = codes.to(torch.float32) * 0.25
    np.testing.assert_allclose(round_to_nearest(weight, form).dequantized(), weight, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1e-40, 1.0, -3.5])
def test_constant_matrices_stay_finite_and_close(name: str, value: float) -> None:
    form = coded_form(name)
    weight = torch.full((3, 256), value)
    found = round_to_nearest(weight, form).dequantized()
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, weight, rtol=0.01, atol=1e-12)


@pytest.mark.parametrize("name", ["w4g32-gptq", "w4g64-gptq", "w4g128-gptq"])
def test_gptq_changes_outputs_less_than_rounding_where_inputs_are_correlated(name: str) -> None:
    form = coded_form(name)
    weight = normal(2, 64, 256)
    inputs = normal(3, 512, 24) @ normal(4, 24, 256) + 0.1 * normal(5, 512, 256)
    hessian = (inputs.T @ inputs).double()

    def change(coded: Coded) -> float:
        return float((inputs @ (weight - coded.dequantized()).T).square().mean())

    assert change(gptq_matrix(weight, hessian, form)) < 0.5 * change(round_to_nearest(weight, form))


def test_gptq_without_correlation_is_rounding_and_dead_inputs_do_no_harm() -> None:
    form = coded_form("w4g32-gptq")
    weight = normal(6, 16, 64)
    rounded = round_to_nearest(weight, form)
    found = gptq_matrix(weight, torch.eye(64, dtype=torch.float64), form)
    torch.testing.assert_close(found.dequantized(), rounded.dequantized())
    nothing = gptq_matrix(weight, torch.zeros(64, 64, dtype=torch.float64), form)
    assert torch.isfinite(nothing.dequantized()).all()
    assert error(weight, nothing) < 0.02
    rank_one = torch.ones(64, 64, dtype=torch.float64) * 1e12
    assert torch.isfinite(gptq_matrix(weight, rank_one, form).dequantized()).all()
