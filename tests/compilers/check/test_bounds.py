"""Bounds of parity follow from the recipe's forms of weights and from how the backend computes with them."""

from __future__ import annotations

import pytest

from compilers.backend import find_backend
from compilers.check.bounds import (
    FINE,
    HALF_RMS,
    SHARES,
    Arithmetic,
    FloatSums,
    HalfSums,
    IntegerProducts,
    coarsest,
    half_rms,
    integer_share,
)
from registry.recipe import parse_recipe

EIGHT, SIXTEEN = IntegerProducts(8), IntegerProducts(16)


@pytest.mark.parametrize(
    ("toolchain", "recipe", "expected"),
    [
        ("onnxruntime", "fp16", FloatSums()),
        ("onnxruntime", "w8a8-dynamic", EIGHT),
        ("onnxruntime", "w8g128-rtn", EIGHT),
        ("onnxruntime", "w4g64-gptq", EIGHT),
        ("tvm", "fp32", FloatSums()),
        ("tvm", "w8a8-dynamic", EIGHT),
        ("tvm", "w8g64-rtn", SIXTEEN),
        ("tvm", "w4g32-rtn", EIGHT),
        ("iree", "w4g32-rtn", FloatSums()),
        ("qnn", "fp16", HalfSums()),
        ("cann", "fp16", HalfSums()),
        ("openvino", "fp32", FloatSums()),
    ],
)
def test_arithmetic_follows_from_the_form_of_the_weights(
    toolchain: str, recipe: str, expected: Arithmetic
) -> None:
    assert find_backend(toolchain).arithmetic_of(parse_recipe(recipe)) == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((EIGHT, SIXTEEN), EIGHT),
        ((FloatSums(), SIXTEEN), SIXTEEN),
        ((FloatSums(), HalfSums()), HalfSums()),
        ((FloatSums(),), FloatSums()),
    ],
)
def test_several_ways_are_held_to_the_coarsest(given: tuple[Arithmetic, ...], expected: Arithmetic) -> None:
    assert coarsest(given) == coarsest(reversed(given)) == expected


def test_shares_follow_from_weights_method_and_bits_of_activations() -> None:
    four = parse_recipe("w4g32-gptq")
    assert integer_share(four, EIGHT) == SHARES["int4", "gptq"]
    assert integer_share(four, SIXTEEN) == SHARES["int4", "gptq"] * FINE
    assert integer_share(four, FloatSums()) is None
    assert integer_share(parse_recipe("w8a16"), FloatSums()) == 0.5
    assert integer_share(parse_recipe("w4a16"), FloatSums()) == 0.015
    assert half_rms(HalfSums()) == HALF_RMS
    assert half_rms(EIGHT) is None
