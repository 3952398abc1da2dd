"""Rows: one KV cache that is used again for every batch of an evaluation.

Allocating a cache is dear for some runtimes. An evaluation has one shape of batch, so one cache serves it
all; it grows when a longer sequence comes.
"""

from __future__ import annotations

from compilers.runtime import Cache, Session

_STEP_TOKENS = 64
"""Capacities are multiples of this, so that a few more tokens do not mean a new cache."""


class Rows:
    """A cache of `batch_size` rows over one session, emptied on demand."""

    def __init__(self, session: Session, *, batch_size: int) -> None:
        self.session = session
        self.batch_size = batch_size
        self._cache: Cache | None = None

    def empty(self, *, capacity: int) -> Cache:
        """The cache with all rows empty, each of which can hold at least `capacity` tokens."""
        if self._cache is None or self._cache.capacity < capacity:
            rounded = -(-capacity // _STEP_TOKENS) * _STEP_TOKENS
            wanted = max(capacity, min(rounded, self.session.max_context))
            self._cache = self.session.new_cache(rows=self.batch_size, capacity=wanted)
            return self._cache
        for row in range(self.batch_size):
            if self._cache.length(row):
                self._cache.truncate(row, length=0)
        return self._cache
