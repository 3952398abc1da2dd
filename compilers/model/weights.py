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
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from compilers.model.activations import INPUT, OUTPUT
from compilers.model.architecture import Architecture, Shape, expected_tensors, matrix_shapes
from registry.errors import CorruptError
from registry.recipe import Recipe
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX, CodedWeights, FloatWeights, WeightForm

ALIGNMENT_BYTES = 64
METADATA: Final = "__metadata__"
"""Where safetensors has a map of strings."""
WIDE_INPUTS: Final = "wide_inputs"
"""Its entry with the names of the matrices whose inputs must not be rounded to 8 bits."""

Dtype = Literal["F32", "F16", "U8", "I8"]
"""Element types, in the words of safetensors."""

NUMPY_TYPES: Mapping[Dtype, type[np.generic]] = {
    "F32": np.float32,
    "F16": np.float16,
    "U8": np.uint8,
    "I8": np.int8,
}
ITEM_BYTES: Mapping[Dtype, int] = {name: np.dtype(kind).itemsize for name, kind in NUMPY_TYPES.items()}
_MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself
_ROW = re.compile(r"(?<=self_attn\.)[qkv](?=_proj)")


@dataclass(frozen=True, slots=True)
class StoredTensor:
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
    tensors: Mapping[str, StoredTensor]
    wide_inputs: frozenset[str] = frozenset()
    """Matrices of codes whose inputs must not be rounded to 8 bits."""

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return len(self.header) + sum(tensor.size_bytes for tensor in self.tensors.values())

    def form(self, matrix: str, recipe: Recipe) -> WeightForm:
        """The form of a matrix that the file holds codes of, under the recipe that made them."""
        form = recipe.form(matrix)
        if isinstance(form, CodedWeights) and matrix in self.wide_inputs:
            return replace(form, wide_inputs=True)
        return form


def coded_weights(architecture: Architecture, recipe: Recipe) -> dict[str, CodedWeights]:
    """The matrices that a recipe quantizes and their forms, in the order of execution.

    A matrix whose inputs are not a multiple of the group size stays float32 under its own name. A tied output
    matrix is the embedding; it is `lm_head.weight`, apart, only where the recipe gives it another form.
    """
    found: dict[str, CodedWeights] = {}
    for name, (_, columns) in _named_matrices(architecture).items():
        form = recipe.form(name)
        if isinstance(form, CodedWeights) and columns % (form.group_size or 1) == 0:
            found[name] = form
    if architecture.tie_embeddings and found.get(EMBEDDING) == found.get(OUTPUT_MATRIX):
        found.pop(OUTPUT_MATRIX, None)
    return found


def weights_layout(
    architecture: Architecture, recipe: Recipe, *, wide_inputs: frozenset[str] = frozenset()
) -> Layout:
    """The layout of the weights file of a checkpoint of this architecture under this recipe.

    Args:
        architecture: Of the checkpoint.
        recipe: Of the variant.
        wide_inputs: Matrices of codes whose inputs must not be rounded to 8 bits.
    """
    coded, shapes = coded_weights(architecture, recipe), _named_matrices(architecture)
    plain: Dtype = "F16" if FloatWeights("float16") in recipe.forms else "F32"
    wanted: dict[str, tuple[Dtype, Shape]] = {}
    for name in {**expected_tensors(architecture), **coded}:
        if name in coded:
            for part, entry in _coded_parts(coded[name], shapes[name]).items():
                wanted[f"{name}.{part}"] = entry
        else:
            wanted[name] = (plain, expected_tensors(architecture)[name])
    return arrange(wanted, wide_inputs=wide_inputs)


def arrange(
    wanted: Mapping[str, tuple[Dtype, Shape]], *, wide_inputs: frozenset[str] = frozenset()
) -> Layout:
    """The layout of a file with these tensors, in their order except for alignment."""

    def size(name: str) -> int:
        dtype, shape = wanted[name]
        return math.prod(shape) * ITEM_BYTES[dtype]

    together: dict[str, list[str]] = {}
    for name in wanted:
        together.setdefault(_ROW.sub("qkv", name), []).append(name)
    rows = list(together.values())
    aligned = [row for row in rows if all(size(name) % ALIGNMENT_BYTES == 0 for name in row)]
    others = sorted(
        (row for row in rows if row not in aligned), key=lambda row: -ITEM_BYTES[wanted[row[0]][0]]
    )
    entries: dict[str, dict[str, object]] = {}
    if wide_inputs:
        entries[METADATA] = {WIDE_INPUTS: " ".join(sorted(wide_inputs))}
    begin = 0
    for name in (name for row in (*aligned, *others) for name in row):
        dtype, shape = wanted[name]
        end = begin + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    document = json.dumps(entries, separators=(",", ":")).encode()
    document += b" " * (-(8 + len(document)) % ALIGNMENT_BYTES)
    header = len(document).to_bytes(8, "little") + document
    tensors: dict[str, StoredTensor] = {}
    start = len(header)
    for name in (name for name in entries if name != METADATA):
        dtype, shape = wanted[name]
        tensors[name] = StoredTensor(dtype, shape, start)
        start += tensors[name].size_bytes
    return Layout(header, tensors, wide_inputs)


def read_layout(path: Path) -> Layout:
    """The layout of an existing weights file, from its header.

    Raises:
        CorruptError: The file is missing, has no such header, or its tensors are not where the header says.
    """
    try:
        with path.open("rb") as stream:
            prefix = stream.read(8)
            size = int.from_bytes(prefix, "little")
            if len(prefix) != 8 or size > _MAX_HEADER_BYTES:
                raise ValueError(f"{size} bytes of header")
            header = prefix + stream.read(size)
        entries = json.loads(header[8:])
        wide_inputs = frozenset(entries.pop(METADATA, {}).get(WIDE_INPUTS, "").split())
        tensors: dict[str, StoredTensor] = {}
        end = 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            tensor = StoredTensor(entry["dtype"], tuple(entry["shape"]), len(header) + end)
            if entry["data_offsets"] != [end, end + tensor.size_bytes]:
                raise ValueError(f"`{name}` lies in bytes {entry['data_offsets']}, not from {end} on")
            tensors[name] = tensor
            end += tensor.size_bytes
        layout = Layout(header, tensors, wide_inputs)
        if layout.size_bytes != path.stat().st_size:
            raise ValueError(f"{path.stat().st_size} bytes instead of {layout.size_bytes}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptError(
            f"`{path}` is not a whole weights file: {error}", hint="build or fetch the variant again"
        ) from error
    return layout


def _named_matrices(architecture: Architecture) -> dict[str, Shape]:
    """All matrices, a tied output matrix under both of its names."""
    return {**matrix_shapes(architecture), OUTPUT_MATRIX: (architecture.vocab_size, architecture.hidden_size)}


def _coded_parts(form: CodedWeights, shape: Shape) -> dict[str, tuple[Dtype, Shape]]:
    rows, columns = shape
    group = form.group_size
    if group is None:
        parts: dict[str, tuple[Dtype, Shape]] = {"codes": ("I8", (rows, columns)), "scales": ("F32", (rows,))}
    else:
        parts = {
            "codes": ("U8", (rows, columns // group, group // form.codes_per_byte)),
            "scales": ("F32", (rows, columns // group)),
        }
    if form.activations == "int16-static":
        parts |= {INPUT: ("F32", (2,)), OUTPUT: ("F32", (2,))}
    return parts
