"""Batches of samples: one KV cache, reused for every batch of an evaluation.

Allocating a cache is expensive for some runtimes. All batches of an evaluation have the same number of rows,
so one cache serves them all; it grows when a longer sequence arrives.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compilers.runtime import Cache, FloatArray, Segment, Session
from registry.errors import EvaluationError

_STEP_TOKENS = 64
"""Capacities are multiples of this, so that a few more tokens do not need a new cache."""
_CALL_TOKENS = 32_768
"""Limit on the tokens of one `forward`, padding included: long prompts run a few at a time."""


class SampleBatch:
    """A cache of `batch_size` rows of one session, emptied on request."""

    def __init__(self, session: Session, *, batch_size: int) -> None:
        self.session = session
        self.batch_size = batch_size
        self._cache: Cache | None = None

    def empty(self, *, capacity: int) -> Cache:
        """The cache with all rows empty, each with room for at least `capacity` tokens."""
        if self._cache is None or self._cache.capacity < capacity:
            rounded = -(-capacity // _STEP_TOKENS) * _STEP_TOKENS
            wanted = max(capacity, min(rounded, self.session.max_context))
            self._cache = None  # frees the smaller one first
            self._cache = self.session.new_cache(rows=self.batch_size, capacity=wanted)
            return self._cache
        for row in range(self.batch_size):
            if self._cache.length(row):
                self._cache.truncate(row, length=0)
        return self._cache

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """The session's `forward`, in as many calls as the limit on tokens requires.

        Raises:
            EvaluationError: Logits are not finite, so that no sample can be marked.
        """
        results: list[FloatArray] = []
        start, longest = 0, 0
        for end, segment in enumerate(segments):
            longest = max(longest, len(segment.tokens))
            if end > start and longest * (end + 1 - start) > _CALL_TOKENS:
                results += self.session.forward(cache, segments[start:end])
                start, longest = end, len(segment.tokens)
        results += self.session.forward(cache, segments[start:])
        for segment, logits in zip(segments, results, strict=True):
            if not np.isfinite(logits.max(axis=1)).all():
                raise EvaluationError(
                    f"the session gave logits that are not finite (row {segment.row})",
                    hint="the artifact's weights or code are damaged; see its parity and build it again",
                )
        return results
