"""Bounds of parity: how far an artifact's logits may be from torch's, as data.

Float arithmetic: the error is at most so many times torch's own on the same probe, which is measured per
checkpoint (`compilers/check/float_error.py`). A correct build adds in another order than torch and may be
less exact than it: ONNX Runtime is at 1.1 × torch's error at the typical position, TVM, which sums along
whole rows, at up to 2 ×. What moves the logits by 4 × torch's error is refused. Measured by
`benchmarks/parity_power.py` (`benchmarks/PARITY.md`), which plants faults as well.

Integer arithmetic: activations are rounded as well, an error that torch's reference on the same
weights does not have. How much of it reaches the logits depends on the checkpoint: deep and peaked ones
amplify it many times more than others, so no fixed number would tell rounding from damage. But a checkpoint
amplifies the rounding of weights in the same way. So the bound is a share of what quantization itself did:
KL(variant in torch ‖ artifact) is at most `SHARES` × KL(checkpoint ‖ variant in torch).

Float16 arithmetic (`HalfSums`): sums are rounded to eleven bits on their way, and by how much depends on the
order that hardware takes. So the bound is relative: the root mean square of the difference is at most
`HALF_RMS` of the logits' own spread.

Static 16-bit activations are rounded in torch's reference too (`compilers/model/torch_reference.py`), so that
what is left is float16 arithmetic.

Measured on Qualcomm's emulation, on eight random checkpoints of the four architectures, up to six layers (and
float16 on a trained one as well):

                          as built            scales off by 3 %
    float16, rms          0.002 to 0.006      0.054 to 0.25     of the logits' spread
    w8a16, share          0.010 to 0.016      17    to 31
    w4a16, share          0.0005 to 0.0018    0.117 to 0.14

Integer arithmetic, measured on twelve checkpoints (random ones of the four architectures and trained ones;
0.1 to 6 M parameters), the share as built, and with every scale off by 3 % (normal noise), which must be
caught:

                          as built            scales off by 3 %
    8-bit, rounded        1.1   to 3.4        18    to 120
    4-bit, rounded        0.004 to 0.011      0.12  to 0.32
    4-bit, GPTQ           0.006 to 0.060      0.13  to 2.6
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, assert_never

from compilers.check.float_error import FloatFigures
from registry.recipe import Recipe
from registry.weight_form import FloatWeights, WeightForm

FLOAT_BOUND: Final = FloatFigures(typical=3.0, overall=4.0, position=30.0, token=4.0)
"""Multiples of torch's float32 error."""

SHARES: Mapping[tuple[str, str], float] = {
    ("int8", "rtn"): 6.0,
    ("int8", "gptq"): 20.0,
    ("int4", "rtn"): 0.04,
    ("int4", "gptq"): 0.1,
}
"""(element type of the weights, method) → share."""

STATIC_SHARES: Mapping[str, float] = {"int8": 0.5, "int4": 0.015}
"""Element type of weights with static 16-bit activations → share."""

HALF_RMS = 0.02
"""Share of the logits' standard deviation."""

FINE = 1e-3
"""Factor on the share for 16-bit activations: rounding is 256 times finer, its KL 65,536 times smaller."""


@dataclass(frozen=True, slots=True)
class FloatSums:
    """Products and sums in float32."""


@dataclass(frozen=True, slots=True)
class HalfSums:
    """Sums in float16."""


@dataclass(frozen=True, slots=True)
class IntegerProducts:
    """Products of integer weights and activations that are rounded to integers."""

    activation_bits: int
    """8, 15 (two parts of 8 bits) or 16."""


Arithmetic = FloatSums | HalfSums | IntegerProducts
"""How a backend computes the products with weights of one form (`Backend.arithmetic`)."""


def float_sums(form: WeightForm) -> Arithmetic:
    """For backends that compute in float32, whatever the form."""
    return FloatSums()


def half_sums(form: WeightForm) -> Arithmetic:
    """For backends that compute in float16 with float16 weights, and otherwise in float32."""
    return HalfSums() if form == FloatWeights("float16") else FloatSums()


def coarsest(arithmetics: Iterable[Arithmetic]) -> Arithmetic:
    """The arithmetic whose error is the largest: a model with weights of several forms is held to it."""
    found = tuple(arithmetics)
    integer = [a.activation_bits for a in found if isinstance(a, IntegerProducts)]
    if integer:
        return IntegerProducts(min(integer))
    return HalfSums() if HalfSums() in found else FloatSums()


def integer_share(recipe: Recipe, arithmetic: Arithmetic) -> float | None:
    """The share for a recipe; None where products are in float."""
    if recipe.activations == "int16-static":
        return STATIC_SHARES[recipe.weights]
    match arithmetic:
        case FloatSums() | HalfSums():
            return None
        case IntegerProducts(activation_bits=bits):
            share = SHARES[recipe.weights, recipe.method]
            return share if bits == 8 else share * FINE
        case _:
            assert_never(arithmetic)


def half_rms(arithmetic: Arithmetic) -> float | None:
    """The share of the logits' spread; None where sums are in float32."""
    return HALF_RMS if isinstance(arithmetic, HalfSums) else None
