"""Weight forms: how one matrix of a variant is stored and multiplied.

A recipe says which form each matrix has (`Recipe.form`). The quantizer, the layout of the weights file, the
bounds of parity and every backend work from the form, and none of them from the recipe's name. So a recipe
that combines known forms in a new way is a change of `registry/recipe.py` alone.
`registry/variant.py` shows the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

EMBEDDING: Final = "model.embed_tokens.weight"
"""Name of the embedding [vocabulary, hidden] in state dicts."""
OUTPUT_MATRIX: Final = "lm_head.weight"
"""Name of the matrix that makes logits [vocabulary, hidden], where it is not the embedding (tied)."""

Activations = Literal["float", "int8-dynamic", "int16-static"]
"""Type of the activations that a matrix is multiplied with."""


@dataclass(frozen=True, slots=True)
class FloatWeights:
    """A matrix of floats."""

    dtype: Literal["float32", "float16"] = "float32"

    @property
    def name(self) -> str:
        """Short name: `fp32` or `fp16`."""
        return {"float32": "fp32", "float16": "fp16"}[self.dtype]


@dataclass(frozen=True, slots=True)
class CodedWeights:
    """A matrix of integer codes with scales: (stored code − zero) · scale."""

    bits: Literal[4, 8]
    group_size: int | None
    """Input elements that share a scale; None: one scale per output."""
    activations: Activations = "float"
    wide_inputs: bool = False
    """Rounding its inputs to 8 bits would cost (`compilers/quantize/wide_inputs.py`): a backend keeps them in
    float, or rounds them to 15 bits or more."""

    @property
    def low(self) -> int:
        """The least code, before `zero` is added."""
        return -self.high if self.group_size is None else -self.high - 1

    @property
    def high(self) -> int:
        """The largest code, before `zero` is added."""
        return (1 << (self.bits - 1)) - 1

    @property
    def zero(self) -> int:
        """What is added to a code before it is stored: grouped codes are unsigned."""
        return 0 if self.group_size is None else -self.low

    @property
    def codes_per_byte(self) -> int:
        """2 for 4-bit groups, low half first; otherwise 1."""
        return 8 // self.bits if self.group_size is not None else 1

    @property
    def name(self) -> str:
        """Short name, such as `w4g32`, `w8a8` or `w4a16`."""
        match self.activations:
            case "float":
                return f"w{self.bits}g{self.group_size}"
            case "int8-dynamic":
                return f"w{self.bits}a8"
            case "int16-static":
                return f"w{self.bits}a16"


WeightForm: TypeAlias = FloatWeights | CodedWeights
