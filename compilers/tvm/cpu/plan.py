"""The plan beside the compiled library: which weights it wants, how they are packed, what its cache is.

Written by the build side, read on the node; it depends on graph, recipe layout and target alone.
"""

from __future__ import annotations

from typing import Literal

from compilers.tvm.common.forms import TensorForm
from registry.value import Value

LIBRARY_NAME = "model.so"
BLOCK = 16
"""Positions of one block of the cache."""
CHUNK = 64
"""Positions that attention takes at once; a row's capacity is a multiple of it."""


Dtype = Literal["float32", "float16", "int32", "int8", "uint8"]
"""Element types of parameters."""


class Fill(Value):
    """One call of a pack function: part of a parameter, from tensors of the weights file."""

    function: str
    """Name in the library; its arguments are the sources, the parameter, then the integers."""
    sources: tuple[str, ...]
    """Names in `weights.safetensors`."""
    integers: tuple[int, ...] = ()


class Parameter(Value):
    """One tensor that the compiled functions take, in their order."""

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    fills: tuple[Fill, ...] = ()
    """Calls that write it; it starts as zeros."""
    alias: str | None = None
    """Take this tensor of the weights file as it is."""
    values: tuple[float, ...] = ()
    """Or these constants."""


class LibraryPlan(Value):
    """What the node side must know of a library."""

    schema_version: Literal[1] = 1
    layers: int
    kv_heads: int
    head_size: int
    vocab_size: int
    tensors: dict[str, TensorForm]
    """The weights file that the library was compiled for."""
    parameters: tuple[Parameter, ...]
