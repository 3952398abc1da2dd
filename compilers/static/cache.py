"""The KV cache of a static session: rows of keys and values in NumPy's memory, as the steps take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.static.plan import StaticPlan
from registry.errors import LoadError

State = NDArray[Any]
"""float32 or float16, as the plan says."""


class StaticCache:
    """A `Cache` (compilers/runtime.py); every row has places for the plan's whole context.

    Places beyond a row's length hold zeros or forgotten tokens; masks hide them.
    """

    def __init__(self, plan: StaticPlan, *, owner: object, rows: int, capacity: int) -> None:
        self.owner = owner
        self.rows = rows
        self.capacity = capacity
        self.lengths = [0] * rows
        shape = (rows, plan.kv_heads, plan.context, plan.head_size)
        try:
            # Zeros, so that places which were never written hold numbers; untouched pages take no memory.
            self.states: list[State] = [
                np.zeros(shape, np.dtype(plan.compute)) for _ in range(2 * plan.layers)
            ]
        except MemoryError as error:
            raise LoadError(
                f"no memory for a cache of {rows} rows of {plan.context} places",
                hint="ask for fewer rows",
            ) from error

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
        self._check(row, 0)
        if source != row:
            for state in self.states:
                state[row, :, :length] = state[source, :, :length]
        self.lengths[row] = length

    def past(self, row: int) -> list[State]:
        """Keys and values of a row, layer by layer: views [kv_heads, context, head_size]."""
        return [state[row] for state in self.states]

    def append(self, row: int, new: list[State], *, count: int) -> None:
        """Write the first `count` tokens of new keys and values behind a row's own."""
        begin = self.lengths[row]
        for state, made in zip(self.states, new, strict=True):
            state[row, :, begin : begin + count] = made[:, :count]
        self.lengths[row] = begin + count

    def _check(self, row: int, length: int) -> None:
        if not 0 <= row < self.rows:
            raise LoadError(
                f"no row {row} in a cache of {self.rows} rows",
                hint=f"rows are numbered from 0 to {self.rows - 1}",
            )
        if not 0 <= length <= self.lengths[row]:
            raise LoadError(
                f"row {row} holds {self.lengths[row]} tokens, not {length}",
                hint="ask for a prefix of the row",
            )
