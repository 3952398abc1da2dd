"""A loaded TVM artifact: packed weights in memory, and `forward` over a ragged batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.runtime import Cache, FloatArray, Segment
from compilers.tvm.cache import TvmCache
from compilers.tvm.library import Library, load_runtime
from compilers.tvm.plan import Plan
from registry.errors import LoadError

TOKENS_AT_ONCE = 512
"""Longer batches are cut: intermediate results stay in the processor's caches, and logits' memory is bounded."""

Integers = NDArray[np.int32]


class TvmSession:
    """A `Session` (compilers/runtime.py) over a compiled library."""

    def __init__(self, library: Library, plan: Plan, parameters: list[Any], *, max_context: int) -> None:
        self.vocab_size = plan.vocab_size
        self.max_context = max_context
        self._plan = plan
        self._ffi = load_runtime()
        self._parameters = self._ffi.convert(parameters)
        self._one = library.function("one")
        self._many = library.function("many")

    def new_cache(self, *, rows: int, capacity: int) -> TvmCache:
        """An empty cache of `rows` rows of at most `capacity` tokens each.

        Raises:
            LoadError: The sizes are not positive, the model has fewer positions, or memory does not suffice.
        """
        if rows < 1 or not 1 <= capacity <= self.max_context:
            raise LoadError(
                f"no cache of {rows} rows of {capacity} tokens",
                hint=f"give at least 1 row of 1 to {self.max_context} tokens, the model's context",
            )
        cache = TvmCache(self._plan, rows=rows, capacity=capacity)
        pairs = zip(cache.keys, cache.values, strict=True)
        cache.tensors = self._ffi.convert([self._ffi.from_dlpack(part) for pair in pairs for part in pair])
        return cache

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits.

        Raises:
            LoadError: A row would exceed the cache's capacity, is named twice or not there, or a token is outside
                the vocabulary; nothing was appended.
        """
        if not isinstance(cache, TvmCache):
            raise LoadError(
                f"a {type(cache).__name__} is no cache of this session", hint="take it from `new_cache`"
            )
        if not segments:
            return []
        tokens, rows, positions = self._flatten(cache, segments)
        wanted, counts = _wanted(segments)
        logits = self._run(cache, tokens, positions, rows, wanted)
        for segment in segments:
            cache.lengths[segment.row] += len(segment.tokens)
        ends = np.cumsum(counts)
        return [logits[end - count : end] for end, count in zip(ends, counts, strict=True)]

    def _flatten(self, cache: TvmCache, segments: Sequence[Segment]) -> tuple[Integers, Integers, Integers]:
        seen: set[int] = set()
        for segment in segments:
            row, count = segment.row, len(segment.tokens)
            if not 0 <= row < cache.rows or row in seen:
                raise LoadError(
                    f"row {row} is named twice or is not one of {cache.rows}",
                    hint="give each row at most once",
                )
            seen.add(row)
            if count < 1 or cache.lengths[row] + count > cache.capacity:
                raise LoadError(
                    f"row {row} holds {cache.lengths[row]} of {cache.capacity} tokens; {count} cannot be appended",
                    hint="give at least one token, and ask for a cache of a larger capacity",
                )
        lengths = [len(segment.tokens) for segment in segments]
        tokens = np.concatenate([np.asarray(segment.tokens, np.int64) for segment in segments])
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            wrong = next(int(t) for t in tokens if not 0 <= t < self.vocab_size)
            raise LoadError(
                f"token {wrong} is outside the vocabulary of {self.vocab_size}",
                hint="use the tokenizer of the artifact",
            )
        rows = np.repeat(np.array([segment.row for segment in segments], np.int32), lengths)
        positions = np.concatenate(
            [
                np.arange(cache.lengths[s.row], cache.lengths[s.row] + n, dtype=np.int32)
                for s, n in zip(segments, lengths, strict=True)
            ]
        )
        return tokens.astype(np.int32), rows, positions

    def _run(
        self, cache: TvmCache, tokens: Integers, positions: Integers, rows: Integers, wanted: Integers
    ) -> FloatArray:
        count = len(tokens)
        logits = np.empty((len(wanted), self.vocab_size), np.float32)
        for start in range(0, count, TOKENS_AT_ONCE):
            stop = min(start + TOKENS_AT_ONCE, count)
            first, last = np.searchsorted(wanted, (start, stop))
            chosen = wanted[first:last] - start
            # A piece of which no logits are wanted computes one row of them, to be forgotten.
            asked = chosen if len(chosen) else np.zeros(1, np.int32)
            function = self._one if stop - start == 1 else self._many
            made = function(
                *(
                    self._tensor(part)
                    for part in (tokens[start:stop], positions[start:stop], rows[start:stop])
                ),
                self._tensor(asked),
                cache.tensors,
                self._parameters,
            )
            if len(chosen):
                logits[first:last] = np.from_dlpack(made)[:, : self.vocab_size]
        return logits

    def _tensor(self, array: Integers) -> Any:  # Any: tvm_ffi's tensor
        return self._ffi.from_dlpack(np.ascontiguousarray(array))


def _wanted(segments: Sequence[Segment]) -> tuple[Integers, list[int]]:
    """Flattened positions whose logits are asked for, and how many each segment asks."""
    parts: list[Integers] = []
    start = 0
    for segment in segments:
        end = start + len(segment.tokens)
        parts.append(np.arange(start if segment.logits == "all" else end - 1, end, dtype=np.int32))
        start = end
    return np.concatenate(parts), [len(part) for part in parts]
