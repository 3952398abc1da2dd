"""KV slots: what finished sequences keep stays within its bound of tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.sequence import Generation, Sequence
from serving.engine.slots import KvSlots
from tests.serving.engine.test_engine import Letters


class CountingCache:
    """Rows that know their lengths alone."""

    def __init__(self, rows: int, capacity: int) -> None:
        self.rows, self.capacity, self.held = rows, capacity, [0] * rows

    def length(self, row: int) -> int:
        return self.held[row]

    def truncate(self, row: int, *, length: int) -> None:
        assert 0 <= length <= self.held[row]
        self.held[row] = length

    def copy(self, *, source: int, row: int, length: int) -> None:
        assert length <= self.held[source]
        self.held[row] = length


class CountingSession:
    def new_cache(self, *, rows: int, capacity: int) -> CountingCache:
        return CountingCache(rows, capacity)


def finish(slots: KvSlots, prompt: list[int]) -> None:
    """Let one sequence run to its end in the first slot."""
    sequence = Sequence(Generation(prompt=tuple(prompt), max_tokens=1), tokenizer=Letters(), emit=print)
    slots.admit(sequence)
    slots.cache.held[0] = sequence.held = len(prompt)
    slots.decoding = 1
    slots.release(0)


@pytest.mark.parametrize("bound", [0, 40, 100])
@given(lengths=st.lists(st.integers(1, 200), min_size=1, max_size=8))
def test_finished_sequences_keep_no_more_tokens_than_the_bound(bound: int, lengths: list[int]) -> None:
    slots = KvSlots(CountingSession(), slots=1, kept=3, capacity=256, kept_tokens=bound)
    for number, length in enumerate(lengths):
        finish(slots, [1000 * number + place for place in range(length)])
        assert slots.cache.held[0] == 0
        assert sum(slots.cache.held) <= bound


def test_the_newest_finished_sequence_is_kept_and_the_oldest_forgotten() -> None:
    slots = KvSlots(CountingSession(), slots=1, kept=3, capacity=256, kept_tokens=100)
    for number in range(3):
        finish(slots, [1000 * number + place for place in range(45)])
    assert sorted(slots.cache.held) == [0, 0, 45, 45]
