"""KV cache memory of a GPU session: one buffer for K and one for V in each layer, rows copied on the GPU.

K lies as [rows, kv_heads, blocks, head_size, 32], V as [rows, kv_heads, positions, head_size]; `attention.py`
says why. Both are float32: parity with torch is held to float32's precision.
"""

from __future__ import annotations

from compilers.tvm.gpu.driver import DeviceMemory, Driver, Start
from compilers.tvm.gpu.plan import BLOCK, CHUNK, GpuPlan

_ITEM_BYTES = 4


class GpuKvMemory:
    """Keys and values in a GPU's memory."""

    def __init__(self, plan: GpuPlan, driver: Driver, *, rows: int, capacity: int) -> None:
        self.positions = -(-capacity // CHUNK) * CHUNK
        """Positions that a row's memory holds."""
        self.launches: dict[tuple[int, int, int], list[Start]] = {}
        """Launches that a session prepared for this memory, by what they depend on."""
        self._driver = driver
        self._plan = plan
        size = rows * plan.kv_heads * self.positions * plan.head_size * _ITEM_BYTES
        driver.use()
        self.keys: list[DeviceMemory] = [driver.allocate(size) for _ in range(plan.layers)]
        self.values: list[DeviceMemory] = [driver.allocate(size) for _ in range(plan.layers)]

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy whole blocks, so that the last one may hold more than `length` tokens."""
        plan = self._plan
        each = self.positions * plan.head_size * _ITEM_BYTES
        size = -(-length // BLOCK) * BLOCK * plan.head_size * _ITEM_BYTES
        self._driver.use()
        for memory in (*self.keys, *self.values):
            for head in range(plan.kv_heads):
                begin, end = ((r * plan.kv_heads + head) * each for r in (source, row))
                self._driver.copy(memory, memory, offsets=(begin, end), size_bytes=size)

    def release_row(self, row: int, *, length: int) -> None:
        """A GPU's memory is allocated whole: nothing is given back."""
