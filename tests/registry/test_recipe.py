"""Recipes: names, and the forms of weights that they stand for."""

from __future__ import annotations

import pytest

from registry.errors import UnknownNameError
from registry.recipe import KNOWN, parse_recipe
from registry.weight_form import CodedWeights, FloatWeights

MATRIX = "model.layers.0.mlp.down_proj.weight"


@pytest.mark.parametrize(
    ("name", "form", "layout"),
    [
        ("fp32", FloatWeights("float32"), "fp32"),
        ("fp16", FloatWeights("float16"), "fp16"),
        ("w8a8-dynamic", CodedWeights(8, None, "int8-dynamic"), "w8a8"),
        ("w8a16", CodedWeights(8, None, "int16-static"), "w8a16"),
        ("w4a16", CodedWeights(4, None, "int16-static"), "w4a16"),
        ("w8g32-rtn", CodedWeights(8, 32), "w8g32"),
        ("w4g128-gptq", CodedWeights(4, 128), "w4g128"),
    ],
)
def test_a_name_stands_for_a_form_and_a_layout(
    name: str, form: FloatWeights | CodedWeights, layout: str
) -> None:
    recipe = parse_recipe(name)
    assert recipe.form(MATRIX) == form
    assert recipe.layout == layout


@pytest.mark.parametrize("name", KNOWN)
def test_every_matrix_has_one_of_the_recipes_forms(name: str) -> None:
    recipe = parse_recipe(name)
    assert {recipe.form(MATRIX), recipe.form("lm_head.weight")} <= set(recipe.forms)
    assert len({parse_recipe(other).digest for other in KNOWN}) == len(KNOWN)


@pytest.mark.parametrize(
    ("form", "low", "high", "zero", "codes_per_byte"),
    [
        (CodedWeights(4, 32), -8, 7, 8, 2),
        (CodedWeights(8, 32), -128, 127, 128, 1),
        (CodedWeights(8, None, "int8-dynamic"), -127, 127, 0, 1),
        (CodedWeights(4, None, "int16-static"), -7, 7, 0, 1),
    ],
)
def test_grouped_codes_are_unsigned_and_codes_of_whole_rows_symmetric(
    form: CodedWeights, low: int, high: int, zero: int, codes_per_byte: int
) -> None:
    assert (form.low, form.high, form.zero, form.codes_per_byte) == (low, high, zero, codes_per_byte)


def test_a_name_outside_the_grammar_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean `w4g32-gptq`"):
        parse_recipe("w4g32-gptqq")


@pytest.mark.parametrize("name", KNOWN)
def test_a_recipe_is_quantized_or_calibrated_as_its_name_says(name: str) -> None:
    recipe = parse_recipe(name)
    assert recipe.name == name
    assert recipe.is_quantized == name.startswith("w")
    assert recipe.needs_calibration == ("-gptq" in name or name.endswith("a16"))
