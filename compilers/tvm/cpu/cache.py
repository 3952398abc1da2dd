"""KV cache memory of a CPU session: what compiled functions write into.

Per layer, K lies as [rows, kv_heads, blocks, head_size, 16] and V as [rows, kv_heads, blocks, 16, head_size];
`attention.py` says why.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from compilers.ragged_cache import cache_allocation
from compilers.tvm.cpu.memory import aligned_zeros
from compilers.tvm.cpu.plan import BLOCK, CHUNK, LibraryPlan


class CpuKvMemory:
    """Keys and values in NumPy's memory."""

    def __init__(self, plan: LibraryPlan, *, rows: int, capacity: int) -> None:
        blocks = -(-capacity // CHUNK) * (CHUNK // BLOCK)
        shape = (plan.layers, rows, plan.kv_heads, blocks)
        with cache_allocation(rows=rows, capacity=capacity):
            self.keys = aligned_zeros((*shape, plan.head_size, BLOCK), np.dtype(np.float32))
            self.values = aligned_zeros((*shape, BLOCK, plan.head_size), np.dtype(np.float32))
        self.tensors: Any = None  # what the library takes: set by the session that owns the cache

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy whole blocks, so that the last one may hold more than `length` tokens."""
        blocks = -(-length // BLOCK)
        self.keys[:, row, :, :blocks] = self.keys[:, source, :, :blocks]
        self.values[:, row, :, :blocks] = self.values[:, source, :, :blocks]
