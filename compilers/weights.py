"""Canonical weights files: which tensors a variant's `weights.safetensors` holds, and where each one starts.

The layout follows from the architecture and the recipe's layout alone, so that graphs can refer to bytes of a
file that does not exist yet. The form of the values is described in `registry/variant.py`.

safetensors (https://huggingface.co/docs/safetensors) allows no gap between tensors. So the header is padded
to a multiple of 64 bytes, and tensors of a whole number of cache lines come before all others: those are
aligned.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from compilers.export.architecture import Architecture, Shape, expected_tensors, linear_weights
from registry.recipe import Recipe

FILE_NAME = "weights.safetensors"
ALIGNMENT_BYTES = 64

Dtype = Literal["F32", "F16", "U8", "I8"]
"""Element types, in the words of safetensors."""

ITEM_BYTES: Mapping[Dtype, int] = {"F32": 4, "F16": 2, "U8": 1, "I8": 1}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's place in a weights file."""

    dtype: Dtype
    shape: Shape
    offset: int
    """First byte, counted from the start of the file."""

    @property
    def size_bytes(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of all tensors of a weights file, in the order of their bytes."""

    header: bytes
    """Everything before the first tensor: length prefix and padded JSON."""
    tensors: Mapping[str, Tensor]

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.size_bytes for tensor in self.tensors.values())


def quantized_weights(architecture: Architecture, recipe: Recipe) -> dict[str, Shape]:
    """The matrices that a recipe quantizes, [out, in]; a tied output matrix under the name `lm_head.weight`.

    A matrix whose inputs are no multiple of the group size stays float32 under its own name.
    """
    if not recipe.is_quantized:
        return {}
    group = recipe.group_size or 1
    return {name: shape for name, shape in linear_weights(architecture).items() if shape[1] % group == 0}


def weights_layout(architecture: Architecture, recipe: Recipe) -> Layout:
    """The layout of the weights file of a checkpoint of this architecture under this recipe."""
    quantized = quantized_weights(architecture, recipe)
    plain: Dtype = "F16" if recipe.weights == "float16" else "F32"
    wanted: dict[str, tuple[Dtype, Shape]] = {}
    for name, shape in {**expected_tensors(architecture), **quantized}.items():
        if name not in quantized:
            wanted[name] = (plain, shape)
            continue
        for part, dtype, part_shape in _quantized_parts(recipe, shape):
            wanted[f"{name}.{part}"] = (dtype, part_shape)
    return arrange(wanted)


def arrange(wanted: Mapping[str, tuple[Dtype, Shape]]) -> Layout:
    """The layout of a file with these tensors, in their order except for alignment."""

    def misfit(name: str) -> tuple[bool, int]:
        dtype, shape = wanted[name]
        size = math.prod(shape) * ITEM_BYTES[dtype]
        return (size % ALIGNMENT_BYTES != 0, -ITEM_BYTES[dtype] if size % ALIGNMENT_BYTES else 0)

    entries: dict[str, dict[str, object]] = {}
    begin = 0
    for name in sorted(wanted, key=misfit):  # a stable sort: the given order within each class
        dtype, shape = wanted[name]
        end = begin + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    document = json.dumps(entries, separators=(",", ":")).encode()
    document += b" " * (-(8 + len(document)) % ALIGNMENT_BYTES)
    header = len(document).to_bytes(8, "little") + document
    tensors: dict[str, Tensor] = {}
    start = len(header)
    for name in entries:
        dtype, shape = wanted[name]
        tensors[name] = Tensor(dtype, shape, start)
        start += tensors[name].size_bytes
    return Layout(header, tensors)


def _quantized_parts(recipe: Recipe, shape: Shape) -> list[tuple[str, Dtype, Shape]]:
    rows, columns = shape
    group = recipe.group_size
    if group is None:
        return [("codes", "I8", (rows, columns)), ("scales", "F32", (rows,))]
    stored = group // 2 if recipe.weights == "int4" else group
    return [
        ("codes", "U8", (rows, columns // group, stored)),
        ("scales", "F32", (rows, columns // group)),
    ]
