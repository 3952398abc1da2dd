"""The row bookkeeping that all sessions share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compilers.ragged_cache import RaggedCache, cache_allocation, own_cache
from compilers.runtime import Segment
from registry.errors import LoadError

ROWS, CAPACITY = 3, 8


class ListMemory:
    """Rows as lists of tokens."""

    def __init__(self) -> None:
        self.held: list[list[int]] = [[0] * CAPACITY for _ in range(ROWS)]
        self.copied = 0

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        self.held[row][:length] = self.held[source][:length]
        self.copied += 1

    def release_row(self, row: int, *, length: int) -> None:
        self.held[row][length:] = [0] * (CAPACITY - length)


def new_cache(owner: object = None) -> RaggedCache[ListMemory]:
    return RaggedCache(ListMemory(), owner=owner, rows=ROWS, capacity=CAPACITY)


def fill(cache: RaggedCache[ListMemory], row: int, tokens: list[int]) -> None:
    begin = cache.length(row)
    cache.memory.held[row][begin : begin + len(tokens)] = tokens
    cache.append([Segment(row, tokens)])


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["append", "truncate", "copy"]),
            st.integers(0, ROWS - 1),
            st.integers(0, ROWS - 1),
            st.integers(0, CAPACITY),
        ),
        max_size=30,
    )
)
def test_rows_hold_what_a_list_per_row_would_hold(steps: list[tuple[str, int, int, int]]) -> None:
    cache, expected, token = new_cache(), [[] for _ in range(ROWS)], 0
    for what, row, source, count in steps:
        if what == "append" and len(expected[row]) + count <= CAPACITY:
            tokens = list(range(token, token + count))
            token += count
            fill(cache, row, tokens)
            expected[row] += tokens
        elif what == "truncate" and count <= len(expected[row]):
            cache.truncate(row, length=count)
            del expected[row][count:]
        elif what == "copy" and count <= len(expected[source]):
            cache.copy(source=source, row=row, length=count)
            expected[row] = expected[source][:count]
    for row, tokens in enumerate(expected):
        assert cache.memory.held[row][: cache.length(row)] == tokens


def test_a_row_copied_to_itself_moves_no_memory() -> None:
    cache = new_cache()
    fill(cache, 1, [5, 6, 7])
    cache.copy(source=1, row=1, length=2)
    assert (cache.length(1), cache.memory.copied) == (2, 0)


@pytest.mark.parametrize("row", [-1, ROWS])
def test_a_row_that_is_not_there_is_refused(row: int) -> None:
    cache = new_cache()
    with pytest.raises(LoadError, match=f"no row {row} in a cache of 3 rows"):
        cache.truncate(row, length=0)
    with pytest.raises(LoadError, match=f"no row {row}"):
        cache.copy(source=0, row=row, length=0)
    with pytest.raises(LoadError, match=f"no row {row}"):
        cache.copy(source=row, row=0, length=0)


def test_more_tokens_than_a_row_holds_are_refused() -> None:
    cache = new_cache()
    fill(cache, 0, [1, 2])
    with pytest.raises(LoadError, match="row 0 holds 2 tokens, not 3"):
        cache.truncate(0, length=3)
    with pytest.raises(LoadError, match="row 0 holds 2 tokens, not 3"):
        cache.copy(source=0, row=1, length=3)
    assert (cache.length(0), cache.length(1)) == (2, 0)


def test_a_cache_belongs_to_the_session_that_made_it() -> None:
    mine, other = object(), object()
    cache = new_cache(mine)
    assert own_cache(cache, owner=mine, memory=ListMemory) is cache
    with pytest.raises(LoadError, match="not made by this session"):
        own_cache(cache, owner=other, memory=ListMemory)


def test_a_failed_allocation_says_what_was_asked_for() -> None:
    with pytest.raises(LoadError, match="3 rows of 8 tokens"), cache_allocation(rows=3, capacity=8):
        raise MemoryError
