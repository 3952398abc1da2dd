"""Recipes: named, hashed build choices. A checkpoint × a recipe is a variant.

The grammar of a name:

    fp32 | fp16                    floating-point weights
    w8a8-dynamic                   int8 weights per output channel, int8 activations per token at run time
    w8a16 | w4a16                  integer weights per output channel, 16-bit activations in ranges that are
                                   fixed by a calibration set: the form that NPUs multiply in
    w{8|4}g{32|64|128}-{rtn|gptq}  weight-only integers in groups along the input dimension, symmetric

What a backend rounds beyond that, its `arithmetic` says (`compilers/onnxruntime/backend.py` …): ONNX Runtime
and TVM round inputs to 8 bits per group for 4-bit groups, and for 8-bit groups to 8 and 16. Inputs that have
outliers are never rounded to 8 bits, whatever the recipe (`compilers/quantize/wide_inputs.py`).

The embedding is quantized like the other matrices, by rounding to nearest, but for `w8a16` and `w4a16`: a
lookup has no activations whose range could be fixed, so they keep it in float32. An output matrix that is
tied to the embedding is that matrix and stored once, where both have the same form.
"""

from __future__ import annotations

import re
from typing import Literal

from registry.digest import digest_value
from registry.errors import UnknownNameError
from registry.value import Value
from registry.weight_form import EMBEDDING, Activations, CodedWeights, FloatWeights, WeightForm

KNOWN = (
    "fp32", "fp16", "w8a8-dynamic", "w8a16", "w4a16",
    "w8g32-rtn", "w4g32-rtn", "w4g32-gptq", "w4g64-gptq", "w4g128-gptq",
)  # fmt: skip
_GROUPED = re.compile(r"^w(?P<bits>[48])g(?P<group>32|64|128)-(?P<method>rtn|gptq)$")


class Recipe(Value):
    """How the weights of a checkpoint are represented."""

    name: str
    """The name in the grammar above."""
    weights: Literal["float32", "float16", "int8", "int4"]
    """Element type of the weight matrices; norms and biases stay float32 (float16 for fp16)."""
    group_size: int | None = None
    """Input elements that share a scale; None: one scale per output channel (or none at all)."""
    method: Literal["none", "rtn", "gptq"] = "none"
    """How codes are chosen: round to nearest, or GPTQ (https://arxiv.org/abs/2210.17323)."""
    activations: Activations = "float"
    """Type of the activations in matrix products."""

    @property
    def digest(self) -> str:
        """The digest of all choices."""
        return digest_value(self)

    @property
    def is_quantized(self) -> bool:
        """Whether weights are integers with scales."""
        return self.weights in ("int8", "int4")

    @property
    def needs_calibration(self) -> bool:
        """Whether codes or ranges follow from activations of a calibration set."""
        return self.method == "gptq" or self.activations == "int16-static"

    @property
    def layout(self) -> str:
        """What compiled code depends on: the form of the weights, not how their values were chosen."""
        return "+".join(form.name for form in self.forms)

    @property
    def forms(self) -> tuple[WeightForm, ...]:
        """The forms that matrices are in, beside those that stay float32 because they cannot be quantized."""
        match self.weights:
            case "float32" | "float16":
                return (FloatWeights(self.weights),)
            case "int8":
                return (CodedWeights(8, self.group_size, self.activations),)
            case "int4":
                return (CodedWeights(4, self.group_size, self.activations),)

    def form(self, matrix: str) -> WeightForm:
        """The form of a matrix, if it can be quantized.

        Args:
            matrix: Its name in the state dict. A tied output matrix is asked for under both of its names,
                and stored once where the answers are equal.
        """
        if matrix == EMBEDDING and self.activations == "int16-static":
            return FloatWeights()
        return self.forms[0]


def parse_recipe(name: str, *, where: str = "") -> Recipe:
    """The recipe of a name.

    Raises:
        UnknownNameError: The name is outside the grammar.
    """
    match name:
        case "fp32":
            return Recipe(name=name, weights="float32")
        case "fp16":
            return Recipe(name=name, weights="float16")
        case "w8a8-dynamic":
            return Recipe(name=name, weights="int8", method="rtn", activations="int8-dynamic")
        case "w8a16":
            return Recipe(name=name, weights="int8", method="rtn", activations="int16-static")
        case "w4a16":
            # One scale for a whole row of 4-bit codes: rounding alone would lose too much.
            return Recipe(name=name, weights="int4", method="gptq", activations="int16-static")
    if found := _GROUPED.match(name):
        return Recipe(
            name=name,
            weights="int8" if found["bits"] == "8" else "int4",
            group_size=int(found["group"]),
            method="gptq" if found["method"] == "gptq" else "rtn",
        )
    raise UnknownNameError.of("recipe", name, known=KNOWN, where=where)
