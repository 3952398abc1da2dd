"""A loaded TVM artifact: packed weights in memory, and `forward` over a ragged batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from compilers.ragged_cache import RaggedCache, check_cache_size, own_cache
from compilers.runtime import Cache, FloatArray, Segment
from compilers.tvm.common.batch import Batch, Integers, run_batch
from compilers.tvm.common.library import Library, load_runtime, use_threads
from compilers.tvm.cpu.cache import CpuKvMemory
from compilers.tvm.cpu.plan import LibraryPlan

TOKENS_AT_ONCE = 512
"""Longer batches are cut, so that intermediate results stay in the processor's caches."""

Tensor = Any
"""What tvm_ffi passes on."""


class TvmSession:
    """A `Session` (compilers/runtime.py) over a compiled library."""

    def __init__(
        self, library: Library, plan: LibraryPlan, parameters: list[Any], *, max_context: int, threads: int
    ) -> None:
        self.vocab_size = plan.vocab_size
        self.max_context = max_context
        self._plan = plan
        self._threads = threads
        self._ffi = load_runtime()
        self._parameters = self._ffi.convert(parameters)
        self._one = library.function("one")
        self._many = library.function("many")

    def new_cache(self, *, rows: int, capacity: int) -> RaggedCache[CpuKvMemory]:
        """An empty cache of `rows` rows of at most `capacity` tokens each.

        Raises:
            LoadError: The sizes are not positive, the model has fewer positions, or memory does not suffice.
        """
        check_cache_size(rows=rows, capacity=capacity, max_context=self.max_context)
        memory = CpuKvMemory(self._plan, rows=rows, capacity=capacity)
        pairs = zip(memory.keys, memory.values, strict=True)
        memory.tensors = self._ffi.convert([self._ffi.from_dlpack(part) for pair in pairs for part in pair])
        return RaggedCache(memory, owner=self, rows=rows, capacity=capacity)

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits.

        Raises:
            LoadError: A row would exceed the cache's capacity, is named twice or not there, or a token is
                outside the vocabulary; nothing was appended.
        """
        own = own_cache(cache, owner=self, memory=CpuKvMemory)
        return run_batch(own, segments, vocab_size=self.vocab_size, run=self._run)

    def _run(self, memory: CpuKvMemory, batch: Batch, wanted: Integers) -> FloatArray:
        use_threads(self._threads)
        count = len(batch.tokens)
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        for start in range(0, count, TOKENS_AT_ONCE):
            piece = slice(start, min(start + TOKENS_AT_ONCE, count))
            first, last = np.searchsorted(wanted, (piece.start, piece.stop))
            # A piece of which no logits are wanted computes one row of them, to be forgotten.
            asked = wanted[first:last] - start if last > first else np.zeros(1, np.int32)
            function = self._one if piece.stop - start == 1 else self._many
            given = (batch.tokens[piece], batch.positions[piece], batch.rows[piece], asked)
            made = function(*map(self._tensor, given), memory.tensors, self._parameters)
            if last > first:
                logits[first:last] = np.from_dlpack(made)[:, : self.vocab_size]
        return logits

    def _tensor(self, array: Integers) -> Tensor:
        return self._ffi.from_dlpack(np.ascontiguousarray(array))
