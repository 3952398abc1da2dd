"""KV cache memory of a CPU session: what compiled functions write into.

Per layer, K lies as [rows, kv_heads, blocks, head_size, 16] and V as [rows, kv_heads, blocks, 16, head_size];
`attention.py` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compilers.paged_memory import PagedArray
from compilers.ragged_cache import cache_allocation
from compilers.tvm.cpu.plan import BLOCK, CHUNK, LibraryPlan


class CpuKvMemory:
    """Keys and values in NumPy's memory."""

    def __init__(self, plan: LibraryPlan, *, rows: int, capacity: int) -> None:
        blocks = -(-capacity // CHUNK) * (CHUNK // BLOCK)
        shape = (plan.layers, rows, plan.kv_heads, blocks)
        with cache_allocation(rows=rows, capacity=capacity):
            self._paged = [
                PagedArray((*shape, *block), np.dtype(np.float32))
                for block in ((plan.head_size, BLOCK), (BLOCK, plan.head_size))
            ]
        self.keys, self.values = (paged.array for paged in self._paged)
        self.tensors: Any = None  # what the library takes: set by the session that owns the cache

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy whole blocks, so that the last one may hold more than `length` tokens."""
        blocks = -(-length // BLOCK)
        self.keys[:, row, :, :blocks] = self.keys[:, source, :, :blocks]
        self.values[:, row, :, :blocks] = self.values[:, source, :, :blocks]

    def release_row(self, row: int, *, length: int) -> None:
        """Give back the pages behind the first `length` tokens of a row."""
        blocks = -(-length // BLOCK)
        for paged in self._paged:
            for part in paged.array[:, row]:
                for head in part if length else (part,):
                    paged.give_back(head, kept_bytes=blocks * head.strides[0])
