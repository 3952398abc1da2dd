"""A loaded GPU artifact: weights in the GPU's memory, and `forward` as a list of launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from compilers.ragged_cache import RaggedCache, check_cache_size, own_cache
from compilers.runtime import Cache, FloatArray, Segment
from compilers.tvm.common.batch import Batch, Integers, run_batch
from compilers.tvm.common.weights import AnyArray
from compilers.tvm.gpu.cache import GpuKvMemory
from compilers.tvm.gpu.driver import DeviceMemory, Driver, Start
from compilers.tvm.gpu.parameters import upload_parameter
from compilers.tvm.gpu.plan import Argument, GpuPlan, LaunchStep
from registry.errors import LoadError

TOKENS_AT_ONCE = 512
"""Longer batches are cut, so that intermediate results need little memory."""
KEPT_TOKENS = 32
"""Largest number of tokens of which prepared launches are kept, and how many such lists."""
SUFFIX = "_kernel"
"""What TVM adds to the name of a kernel."""


class GpuSession:
    """A `Session` (compilers/runtime.py) over kernels on one GPU."""

    def __init__(
        self, plan: GpuPlan, driver: Driver, code: bytes, weights: Mapping[str, AnyArray], *, max_context: int
    ) -> None:
        self.vocab_size = plan.vocab_size
        self.max_context = max_context
        self.driver = driver
        """The GPU that it runs on."""
        self._plan = plan
        driver.use()
        loaded = driver.load(code, [name + SUFFIX for name in plan.kernels])
        self._kernels = {name: loaded[name + SUFFIX] for name in plan.kernels}
        self._parameters = {
            name: upload_parameter(parameter, weights, driver) for name, parameter in plan.parameters.items()
        }
        self._frequencies = np.asarray(plan.inv_freq, np.float32)
        self._rooms: dict[str, DeviceMemory] = {}
        self._room_sizes = {"tokens": 0, "wanted": 0}
        self._batch: DeviceMemory | None = None
        self._generation = 0
        """Raised when rooms move in memory: launches that were prepared before are void."""

    def new_cache(self, *, rows: int, capacity: int) -> RaggedCache[GpuKvMemory]:
        """An empty cache of `rows` rows of at most `capacity` tokens each.

        Raises:
            LoadError: The sizes are not positive, the model has fewer positions, or memory does not suffice.
        """
        check_cache_size(rows=rows, capacity=capacity, max_context=self.max_context)
        memory = GpuKvMemory(self._plan, self.driver, rows=rows, capacity=capacity)
        return RaggedCache(memory, owner=self, rows=rows, capacity=capacity)

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits.

        Raises:
            LoadError: A row would exceed the cache's capacity, is named twice or not there, or a token is
                outside the vocabulary: nothing was appended. Or the GPU failed.
        """
        own = own_cache(cache, owner=self, memory=GpuKvMemory)
        return run_batch(own, segments, vocab_size=self.vocab_size, run=self._run)

    def _run(self, memory: GpuKvMemory, batch: Batch, asked: Integers) -> FloatArray:
        self.driver.use()
        count = len(batch.tokens)
        logits = np.empty((len(asked), self.vocab_size), np.float32)
        for start in range(0, count, TOKENS_AT_ONCE):
            piece = slice(start, min(start + TOKENS_AT_ONCE, count))
            first, last = (int(at) for at in np.searchsorted(asked, (piece.start, piece.stop)))
            self._upload_batch(batch, piece, asked[first:last] - start)
            counts = {"tokens": piece.stop - piece.start, "wanted": last - first}
            self._grow_rooms(counts)
            for start_kernel in self._launches(memory, counts):
                start_kernel()
            if last > first:
                self.driver.download(self._rooms["logits"], logits[first:last])
        return logits

    def _launches(self, memory: GpuKvMemory, counts: Mapping[str, int]) -> list[Start]:
        """What starts each kernel of a call; kept for small counts, which come again and again."""
        key = (self._generation, counts["tokens"], counts["wanted"])
        if (found := memory.launches.get(key)) is not None:
            return found
        # A piece of which no logits are wanted only fills the cache.
        made = [self._prepare(step, memory, counts) for step in self._plan.steps if counts[step.count]]
        if counts["tokens"] <= KEPT_TOKENS:
            if len(memory.launches) >= KEPT_TOKENS:
                memory.launches.clear()
            memory.launches[key] = made
        return made

    def _prepare(self, step: LaunchStep, memory: GpuKvMemory, counts: Mapping[str, int]) -> Start:
        count = counts[step.count]
        launch = next(way for way in step.launches if way.at_most is None or count <= way.at_most)
        grid = (launch.blocks, -(-count // launch.at_once))
        form = self._plan.kernels[launch.kernel]
        arguments = [
            grid[0] if name == "grid_x" else grid[1] if name == "grid_y"
            else self._argument(step.arguments[name], memory, counts)
            for name in form.arguments
        ]  # fmt: skip
        kernel = self._kernels[launch.kernel]
        return self.driver.prepare(kernel, grid=grid, threads=form.threads, arguments=arguments)

    def _argument(
        self, argument: Argument, memory: GpuKvMemory, counts: Mapping[str, int]
    ) -> DeviceMemory | int:
        match argument.kind:
            case "room":
                return self._rooms[argument.name]
            case "parameter":
                return self._parameters[argument.name]
            case "keys":
                return memory.keys[argument.number]
            case "values":
                return memory.values[argument.number]
            case "number":
                return argument.number
            case "count":
                return counts[argument.name]
            case "capacity":
                return memory.positions
            case "batch":
                if self._batch is None:
                    raise LoadError("a kernel was started without a batch", hint="report this as a defect")
                return self._batch

    def _upload_batch(self, batch: Batch, piece: slice, asked: Integers) -> None:
        """One array for all that kernels need to know of the call; `elementwise.py` describes it."""
        count = piece.stop - piece.start
        size = self._plan.head_size
        words: NDArray[np.int32] = np.zeros(count * (4 + size), np.int32)
        words[:count] = batch.tokens[piece]
        words[count : 2 * count] = batch.positions[piece]
        words[2 * count : 3 * count] = batch.rows[piece]
        words[3 * count : 3 * count + len(asked)] = asked
        angles = batch.positions[piece].astype(np.float32)[:, None] * self._frequencies
        turned = np.concatenate([np.cos(angles), np.sin(angles)], axis=1) * np.float32(self._plan.rope_scale)
        words[4 * count :] = turned.astype(np.float32).reshape(-1).view(np.int32)
        if self._batch is None:
            self._batch = self.driver.allocate(TOKENS_AT_ONCE * (4 + size) * 4)
        self.driver.upload(self._batch, words)

    def _grow_rooms(self, counts: Mapping[str, int]) -> None:
        for kind, count in counts.items():
            if count <= self._room_sizes[kind]:
                continue
            self._generation += 1
            size = min(TOKENS_AT_ONCE, 1 << (count - 1).bit_length())
            for name, room in self._plan.rooms.items():
                if room.count == kind:
                    self._rooms[name] = self.driver.allocate(size * room.width * 4)
                    # Padding is read with zero weights: it must be finite. Logits have none.
                    if name != "logits":
                        self.driver.upload(self._rooms[name], np.zeros(size * room.width, np.float32))
            self._room_sizes[kind] = size
