"""KV cache memory of a static session: keys and values in NumPy's memory, as the steps take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.paged_memory import PagedArray
from compilers.ragged_cache import cache_allocation
from compilers.static.plan import StaticPlan

State = NDArray[Any]
"""float32 or float16, as the plan says."""


class StaticKvMemory:
    """Keys and values; every row has places for the plan's whole context.

    Places beyond a row's length hold zeros or forgotten tokens; masks hide them.
    """

    def __init__(self, plan: StaticPlan, *, rows: int) -> None:
        shape = (rows, plan.kv_heads, plan.context, plan.head_size)
        with cache_allocation(rows=rows, capacity=plan.context):
            self._paged = [PagedArray(shape, np.dtype(plan.compute)) for _ in range(2 * plan.layers)]
        self.states: list[State] = [paged.array for paged in self._paged]

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another one."""
        for state in self.states:
            state[row, :, :length] = state[source, :, :length]

    def release_row(self, row: int, *, length: int) -> None:
        """Give back the pages behind the first `length` tokens of a row."""
        for paged in self._paged:
            part = paged.array[row]
            for head in part if length else (part,):
                paged.give_back(head, kept_bytes=length * head.strides[-2])

    def past(self, row: int) -> list[State]:
        """Keys and values of a row, layer by layer: views [kv_heads, context, head_size]."""
        return [state[row] for state in self.states]

    def write(self, row: int, new: list[State], *, begin: int, count: int) -> None:
        """Write the first `count` tokens of new keys and values to a row, from position `begin` on."""
        for state, made in zip(self.states, new, strict=True):
            state[row, :, begin : begin + count] = made[:, :count]
