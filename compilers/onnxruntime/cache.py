"""KV cache memory of an ONNX Runtime session: one buffer per layer and part, shared by all calls."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from compilers.paged_memory import PagedArray
from compilers.ragged_cache import cache_allocation
from compilers.runtime import FloatArray
from registry.artifact import ModelFacts

SPARE_POSITIONS = 8
"""Positions beyond the capacity: the attention kernel wants room for a call's padding behind a full row."""


HEAD_MULTIPLE = 16
"""The attention kernel's heads are a multiple of this; smaller ones are filled up with zeros."""


def stored_head_size(facts: ModelFacts) -> int:
    """Elements per head in the cache."""
    return -(-facts.head_size // HEAD_MULTIPLE) * HEAD_MULTIPLE


class OrtKvMemory:
    """One buffer per layer and part; the graph appends to them in place.

    Args:
        facts: Sizes of the model.
        rows: Number of rows.
        capacity: Tokens that one row can hold.
    """

    def __init__(self, facts: ModelFacts, *, rows: int, capacity: int) -> None:
        self.positions = capacity + SPARE_POSITIONS
        shape = (rows, facts.kv_heads, self.positions, stored_head_size(facts))
        with cache_allocation(rows=rows, capacity=capacity):
            self._paged = [PagedArray(shape, np.dtype(np.float32)) for _ in range(2 * facts.layers)]
        self.buffers: list[FloatArray] = [paged.array for paged in self._paged]
        self.bindings: OrderedDict[tuple[int, int], Any] = OrderedDict()  # Any: onnxruntime ships no types
        """The session's bindings of ranges of rows; they live as long as the memory that they point into."""

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another one."""
        for buffer in self.buffers:
            buffer[row, :, :length] = buffer[source, :, :length]

    def release_row(self, row: int, *, length: int) -> None:
        """Give back the pages behind the first `length` tokens of a row."""
        for paged in self._paged:
            part = paged.array[row]
            for head in part if length else (part,):
                paged.give_back(head, kept_bytes=length * head.strides[-2])
