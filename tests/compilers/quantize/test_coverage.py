"""What a recipe leaves in float, and when that is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from compilers.quantize.coverage import check_coverage, left_in_float, quantized_share
from compilers.quantize.variant import quantize
from registry.errors import BuildError
from registry.recipe import KNOWN, parse_recipe
from tests.compilers.quantize.test_variant import TEXTS, architecture_of


@pytest.mark.parametrize(
    ("recipe", "hidden", "instead"),
    [
        ("w4g128-rtn", 96, "w4g32-rtn"),
        ("w4g128-gptq", 64, "w4g64-gptq"),
        ("w8g64-rtn", 96, "w8g32-rtn"),
        ("w4g32-rtn", 72, "w8a8-dynamic"),
    ],
)
def test_a_recipe_that_applies_to_less_than_half_is_refused_with_one_that_applies(
    recipe: str, hidden: int, instead: str, checkpoint_of: Callable[..., Path]
) -> None:
    checkpoint = checkpoint_of(architecture="LlamaForCausalLM", hidden_size=hidden, intermediate_size=128)
    architecture = architecture_of(checkpoint)
    with pytest.raises(BuildError, match=f"{recipe}.* of the weights") as refused:
        check_coverage(architecture, parse_recipe(recipe))
    assert f"`{instead}`" in refused.value.hint
    check_coverage(architecture, parse_recipe(instead))
    assert quantized_share(architecture, parse_recipe(instead)) > 0.5


@pytest.mark.parametrize("recipe", KNOWN)
def test_what_is_left_in_float_is_what_quantization_left(
    recipe: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    architecture = architecture_of(checkpoint := checkpoint_of(architecture="LlamaForCausalLM"))
    parsed = parse_recipe(recipe)
    report = quantize(checkpoint, parsed, architecture=architecture, out=tmp_path, calibration=TEXTS)
    assert left_in_float(architecture, parsed) == report.left_in_float
