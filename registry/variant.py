"""Variants: a checkpoint × a recipe, as hardware-independent weights in one canonical safetensors file.

Names in the file are the checkpoint's own state-dict names. A matrix that the recipe leaves alone is stored
under its name, float32 (or float16), shape [out, in]; the embedding is [vocabulary, hidden]. A quantized
matrix `w` is stored as

    w.codes   uint8    int4: [out, in / group, group / 2], low nibble first; int8 groups: [out, in / group,
                       group]; w8a8, w8a16 and w4a16: int8 [out, in]
    w.scales  float32  [out, in / group], or [out] for w8a8, w8a16 and w4a16

and stands for (code − zero) · scale with zero = 8 (int4), 128 (int8 groups), 0 (w8a8, w8a16, w4a16). The
grouped layouts are those of ONNX Runtime's MatMulNBits, so that its graph can refer to this file directly.
An output matrix that is tied to the embedding is in the file once, as `model.embed_tokens.weight`, unless the
recipe gives the two different forms; then it is also there as `lm_head.weight`, quantized.
`registry/weight_form.py` has these forms as values; `Recipe.form` says which one a matrix has.

With static activations (w8a16, w4a16), each quantized matrix also has

    w.input_range   float32  [2]: the least and the largest input that a 16-bit code must reach
    w.output_range  float32  [2]: the same of the product, before any bias

The header's `__metadata__` has `wide_inputs`, if there are any: names, with spaces between them, of matrices
whose inputs have outliers. Code that multiplies one of them must not round its inputs to 8 bits: it keeps
them in float, or gives them 15 bits or more (`compilers/quantize/wide_inputs.py` chooses them).
"""

from __future__ import annotations

from typing import Final

from registry.checkpoint import FileEntry
from registry.digest import Digest, digest_value
from registry.recipe import Recipe
from registry.value import Value

WEIGHTS_NAME: Final = "weights.safetensors"
"""Name of the canonical weights file, in a variant and in an artifact."""


class Variant(Value):
    """A checkpoint × a recipe."""

    checkpoint: str
    """`name/version` of the checkpoint."""
    checkpoint_digest: Digest
    recipe: Recipe
    graph: FileEntry
    """The ONNX interchange graph, by the architecture alone; its weights refer to `weights.safetensors`."""
    weights: FileEntry
    """The canonical weights file described above."""
    calibration_digest: Digest | None = None
    """Digest of the calibration set, for recipes that need one."""
    quantization_error: float | None = None
    """Mean over the quantized matrices of ‖W − Ŵ‖² / ‖W‖²; None for floating-point recipes."""
    left_in_float: tuple[str, ...] = ()
    """Matrices that an integer recipe leaves in float, by their names in the state dict, sorted."""
    wide_inputs: tuple[str, ...] = ()
    """Quantized matrices whose inputs must not be rounded to 8 bits, by their names, sorted."""

    @property
    def layout(self) -> str:
        """What compiled code depends on: the weights' form, and whose inputs are not rounded to 8 bits."""
        if not self.wide_inputs:
            return self.recipe.layout
        return f"{self.recipe.layout}, wide inputs {digest_value(self.wide_inputs)}"
