"""The KV cache of a GPU session: one buffer for K and one for V in each layer, rows copied on the GPU.

K lies as [rows, kv_heads, blocks, head_size, 32], V as [rows, kv_heads, positions, head_size]; `attention.py`
says why. Both are float32: parity with torch is held to float32's precision.
"""

from __future__ import annotations

from compilers.tvm.gpu.driver import DeviceMemory, Driver, Start
from compilers.tvm.gpu.plan import BLOCK, CHUNK, GpuPlan
from registry.errors import LoadError

_ITEM_BYTES = 4


class GpuCache:
    """A `Cache` (compilers/runtime.py) in a GPU's memory."""

    def __init__(self, plan: GpuPlan, driver: Driver, *, owner: object, rows: int, capacity: int) -> None:
        self.owner = owner
        self.rows = rows
        self.capacity = capacity
        self.positions = -(-capacity // CHUNK) * CHUNK
        """Positions that a row's memory holds."""
        self.lengths = [0] * rows
        self.launches: dict[tuple[int, int, int], list[Start]] = {}
        """Launches that a session prepared for this cache, by what they depend on."""
        self._driver = driver
        self._plan = plan
        size = rows * plan.kv_heads * self.positions * plan.head_size * _ITEM_BYTES
        driver.use()
        self.keys: list[DeviceMemory] = [driver.allocate(size) for _ in range(plan.layers)]
        self.values: list[DeviceMemory] = [driver.allocate(size) for _ in range(plan.layers)]

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
        if source != row and length:
            self._copy(source, row, -(-length // BLOCK) * BLOCK)
        self.lengths[row] = length

    def _copy(self, source: int, row: int, positions: int) -> None:
        plan = self._plan
        each = self.positions * plan.head_size * _ITEM_BYTES
        size = positions * plan.head_size * _ITEM_BYTES
        self._driver.use()
        for memory in (*self.keys, *self.values):
            for head in range(plan.kv_heads):
                begin, end = ((r * plan.kv_heads + head) * each for r in (source, row))
                self._driver.copy(memory, memory, offsets=(begin, end), size_bytes=size)

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
