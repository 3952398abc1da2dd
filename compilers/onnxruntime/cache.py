"""The KV cache of an ONNX Runtime session: one buffer per layer and part, shared by all calls.

The graph reads and appends to these buffers in place; row and length bookkeeping is done here.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from compilers.runtime import FloatArray
from registry.artifact import ModelFacts
from registry.errors import LoadError

SPARE_POSITIONS = 8
"""Positions beyond the capacity: the attention kernel wants room for a call's padding behind a full row."""


HEAD_MULTIPLE = 16
"""The attention kernel's heads are a multiple of this; smaller ones are filled up with zeros."""


def stored_head_size(facts: ModelFacts) -> int:
    """Elements per head in the cache."""
    return -(-facts.head_size // HEAD_MULTIPLE) * HEAD_MULTIPLE


class OrtCache:
    """Rows of keys and values.

    Args:
        facts: Sizes of the model.
        owner: The session that makes it, which alone may run it.
        rows: Number of rows.
        capacity: Tokens that one row can hold.
    """

    def __init__(self, facts: ModelFacts, *, owner: object, rows: int, capacity: int) -> None:
        self.owner = owner
        self.rows = rows
        self.capacity = capacity
        self.positions = capacity + SPARE_POSITIONS
        shape = (rows, facts.kv_heads, self.positions, stored_head_size(facts))
        try:
            # Zeros, so that places which were never written hold numbers; untouched pages take no memory.
            self.buffers: list[FloatArray] = [np.zeros(shape, np.float32) for _ in range(2 * facts.layers)]
        except MemoryError as error:
            raise LoadError(
                f"no memory for a cache of {rows} rows of {capacity} tokens",
                hint="ask for fewer rows or a smaller capacity",
            ) from error
        self.lengths = [0] * rows
        self.bindings: OrderedDict[tuple[int, int], Any] = OrderedDict()  # Any: onnxruntime ships no types
        """The session's bindings of ranges of rows; they live as long as the memory that they point into."""

    def length(self, row: int) -> int:
        """Tokens that a row holds."""
        return self.lengths[row]

    def truncate(self, row: int, *, length: int) -> None:
        """Forget a row's tokens from `length` on."""
        if not 0 <= length <= self.lengths[row]:
            raise LoadError(
                f"row {row} holds {self.lengths[row]} tokens and cannot be cut to {length}",
                hint="give a length that the row has",
            )
        self.lengths[row] = length

    def copy(self, *, source: int, row: int, length: int) -> None:
        """Make `row` hold the first `length` tokens of row `source`."""
        if not 0 <= length <= self.lengths[source]:
            raise LoadError(
                f"row {source} holds {self.lengths[source]} tokens, {length} were to be copied",
                hint="give a length that the row has",
            )
        if source != row:
            for buffer in self.buffers:
                buffer[row, :, :length] = buffer[source, :, :length]
        self.lengths[row] = length
