"""Ragged KV cache: the bookkeeping of rows of different lengths, and the checks of every call.

All sessions share it. What differs between them, the memory that keys and values lie in, is a `KvMemory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar, cast

from compilers.runtime import Cache, Segment
from registry.errors import LoadError


class KvMemory(Protocol):
    """Where keys and values of all rows lie."""

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy the first `length` tokens of row `source`, another row than `row`."""
        ...

    def release_row(self, row: int, *, length: int) -> None:
        """Give back what memory can be given back of a row that holds no more than `length` tokens."""
        ...


M = TypeVar("M", bound=KvMemory)


class RaggedCache(Generic[M]):
    """A `Cache` (compilers/runtime.py) over some memory.

    Args:
        memory: Holds `rows` rows of at least `capacity` tokens each.
        owner: The session that makes it, which alone may run it.
        rows: Number of rows.
        capacity: Tokens that one row can hold.
    """

    def __init__(self, memory: M, *, owner: object, rows: int, capacity: int) -> None:
        self.memory = memory
        self.owner = owner
        self.rows = rows
        self.capacity = capacity
        self.lengths = [0] * rows
        """Tokens that each row holds."""

    def length(self, row: int) -> int:
        """Tokens that a row holds."""
        return self.lengths[row]

    def truncate(self, row: int, *, length: int) -> None:
        """Forget a row's tokens from `length` on.

        Raises:
            LoadError: No such row, or it holds fewer tokens.
        """
        self._check(row, length)
        if length < self.lengths[row]:
            self.memory.release_row(row, length=length)
        self.lengths[row] = length

    def copy(self, *, source: int, row: int, length: int) -> None:
        """Make `row` hold the first `length` tokens of row `source`.

        Raises:
            LoadError: No such row, or the source holds fewer tokens.
        """
        self._check(source, length)
        self._check(row, 0)
        if length < self.lengths[row]:
            self.memory.release_row(row, length=length)
        if source != row and length:
            self.memory.copy_row(source=source, row=row, length=length)
        self.lengths[row] = length

    def append(self, segments: Sequence[Segment]) -> None:
        """Count the tokens of segments whose keys and values are in the memory."""
        for segment in segments:
            self.lengths[segment.row] += len(segment.tokens)

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


def own_cache(cache: Cache, *, owner: object, memory: type[M]) -> RaggedCache[M]:
    """The cache, if the session `owner` made it.

    Raises:
        LoadError: It is another session's.
    """
    if not isinstance(cache, RaggedCache) or cache.owner is not owner:
        raise LoadError("the cache was not made by this session", hint="use the session's own `new_cache`")
    return cast("RaggedCache[M]", cache)


@contextmanager
def cache_allocation(*, rows: int, capacity: int) -> Iterator[None]:
    """Turns a `MemoryError` of the block into a `LoadError` with the size that was asked for."""
    try:
        yield
    except MemoryError as error:
        raise LoadError(
            f"no memory for a cache of {rows} rows of {capacity} tokens",
            hint="ask for fewer rows or a smaller capacity",
        ) from error


def check_segments(cache: Cache, segments: Sequence[Segment], *, vocab_size: int) -> None:
    """Check that every segment can be appended to its row.

    Raises:
        LoadError: A row that the cache does not have or that appears twice, no tokens, a token outside the
            vocabulary, or more tokens than the row can still hold.
    """
    seen: set[int] = set()
    for segment in segments:
        row, count = segment.row, len(segment.tokens)
        if not 0 <= row < cache.rows:
            raise LoadError(
                f"row {row} of a cache with {cache.rows} rows", hint="make a cache with more rows"
            )
        if row in seen:
            raise LoadError(f"row {row} appears in two segments of one call", hint="join them into one")
        seen.add(row)
        if count == 0:
            raise LoadError(f"the segment for row {row} has no token", hint="leave it out")
        held = cache.length(row)
        if held + count > cache.capacity:
            raise LoadError(
                f"row {row} holds {held} tokens and would get {count} more, its capacity is {cache.capacity}",
                hint="make a cache of a larger capacity, or shorten the input",
            )
        if min(segment.tokens) < 0 or max(segment.tokens) >= vocab_size:
            wrong = next(token for token in segment.tokens if not 0 <= token < vocab_size)
            raise LoadError(
                f"token id {wrong} in the segment for row {row}, the vocabulary has {vocab_size}",
                hint="encode with the checkpoint's own tokenizer",
            )


def check_cache_size(*, rows: int, capacity: int, max_context: int) -> None:
    """Check the size of a cache before it is made.

    Raises:
        LoadError: No row, no capacity, or more capacity than the checkpoint has positions.
    """
    if rows < 1 or capacity < 1:
        raise LoadError(f"a cache of {rows} rows of {capacity} tokens", hint="both must be at least 1")
    if capacity > max_context:
        raise LoadError(
            f"a cache capacity of {capacity} tokens, the checkpoint was made for {max_context}",
            hint="ask for a capacity within the context, and shorten longer inputs",
        )
