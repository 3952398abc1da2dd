"""Segments of a call: checked once for every session, before anything is appended."""

from __future__ import annotations

from collections.abc import Sequence

from compilers.runtime import Cache, Segment
from registry.errors import LoadError


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
