"""The KV cache of a session: memory that compiled functions write into, and rows that are copied within it.

Per layer, K lies as [rows, kv_heads, blocks, head_size, 16] and V as [rows, kv_heads, blocks, 16, head_size];
`attention.py` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.tvm.cpu.plan import BLOCK, CHUNK, LibraryPlan
from registry.errors import LoadError

ALIGNMENT_BYTES = 64
"""What compiled code expects of the address of parameters and caches."""


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros at an address that is a multiple of `ALIGNMENT_BYTES`."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


class TvmCache:
    """A `Cache` (compilers/runtime.py) in NumPy's memory."""

    def __init__(self, plan: LibraryPlan, *, owner: object, rows: int, capacity: int) -> None:
        blocks = -(-capacity // CHUNK) * (CHUNK // BLOCK)
        shape = (plan.layers, rows, plan.kv_heads, blocks)
        self.owner = owner
        self.rows = rows
        self.capacity = capacity
        self.lengths = [0] * rows
        try:
            self.keys = aligned_zeros((*shape, plan.head_size, BLOCK), np.dtype(np.float32))
            self.values = aligned_zeros((*shape, BLOCK, plan.head_size), np.dtype(np.float32))
        except MemoryError as error:
            raise LoadError(
                f"no memory for a cache of {rows} rows of {capacity} tokens",
                hint="ask for fewer rows or tokens",
            ) from error
        self.tensors: Any = None  # what the library takes: set by the session that owns the cache

    def length(self, row: int) -> int:
        """Tokens that a row holds."""
        return self.lengths[row]

    def truncate(self, row: int, *, length: int) -> None:
        """Forget a row's tokens from `length` on."""
        self._check(row, length)
        self.lengths[row] = length

    def copy(self, *, source: int, row: int, length: int) -> None:
        """Make `row` hold the first `length` tokens of row `source`."""
        self._check(source, length)
        if not 0 <= row < self.rows:
            raise _no_row(row, self.rows)
        if source != row:
            blocks = -(-length // BLOCK)
            self.keys[:, row, :, :blocks] = self.keys[:, source, :, :blocks]
            self.values[:, row, :, :blocks] = self.values[:, source, :, :blocks]
        self.lengths[row] = length

    def _check(self, row: int, length: int) -> None:
        if not 0 <= row < self.rows:
            raise _no_row(row, self.rows)
        if not 0 <= length <= self.lengths[row]:
            raise LoadError(
                f"row {row} holds {self.lengths[row]} tokens, not {length}",
                hint="ask for a prefix of the row",
            )


def _no_row(row: int, rows: int) -> LoadError:
    return LoadError(
        f"no row {row} in a cache of {rows} rows", hint=f"rows are numbered from 0 to {rows - 1}"
    )
