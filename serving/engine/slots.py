"""KV cache slots: which sequence occupies which row of the cache.

Runtimes run fastest when the rows of one call are contiguous, so running sequences always fill the first
rows: those that decode, then those whose prompt is still being read. When one leaves, the last takes its
place.

Behind them lie rows that keep what finished sequences held. A new prompt that begins like one of them (the
next turn of an agent, the same instructions again) starts from a copy instead of reading it again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from compilers.runtime import Cache, Session
from serving.engine.sampling import IntArray
from serving.engine.sequence import Sequence

MIN_REUSE_TOKENS = 16
"""A shorter common beginning is not worth a copy."""


@dataclass(slots=True)
class _Kept:
    tokens: IntArray
    used: int


class KvSlots:
    """A cache of `slots` rows for running sequences and `kept` rows for finished ones."""

    def __init__(
        self, session: Session, *, slots: int, kept: int, capacity: int, kept_tokens: int = 1 << 16
    ) -> None:
        self.cache: Cache = session.new_cache(rows=slots + kept, capacity=capacity)
        self.slots = slots
        self.running: list[Sequence] = []
        """The sequence in each row."""
        self.decoding = 0
        """So many of `running` have read their whole prompt; they come first."""
        self._kept: dict[int, _Kept | None] = dict.fromkeys(range(slots, slots + kept))
        self._kept_tokens = kept_tokens
        self._clock = 0

    @property
    def free(self) -> int:
        """Sequences that could be admitted now."""
        return self.slots - len(self.running)

    def admit(self, sequence: Sequence) -> None:
        """Give a sequence a row, with as much of its prompt as another row already holds."""
        row = len(self.running)
        self.running.append(sequence)
        self.cache.truncate(row, length=0)
        if sequence.needs_all_logits:
            return
        source, length = self._best(sequence)
        if length >= MIN_REUSE_TOKENS:
            self.cache.copy(source=source, row=row, length=length)
            sequence.held = sequence.reused = length

    def is_about_to_be_read(self, sequence: Sequence) -> bool:
        """Whether a prompt that is just being read begins like this one for the better part of it.

        Then it is worth waiting a step: this one starts from a copy.
        """
        if sequence.needs_all_logits:
            return False
        prompt = sequence.unread
        enough = max(MIN_REUSE_TOKENS, len(prompt) // 2)
        return any(
            _common(other.unread, prompt) >= enough
            for other in self.running[self.decoding :]
            if self._kept or other.generation.max_tokens > 1  # else it will be gone by then
        )

    def release(self, row: int) -> None:
        """Empty a row; what its sequence held is kept for reuse if there are rows for that."""
        self._keep(row)
        if row < self.decoding:
            self.decoding -= 1
            self._move(self.decoding, to=row)
            row = self.decoding
        last = len(self.running) - 1
        self._move(last, to=row)
        self.running.pop()
        self.cache.truncate(last, length=0)

    def _move(self, row: int, *, to: int) -> None:
        if row == to:
            return
        self.cache.copy(source=row, row=to, length=self.cache.length(row))
        self.running[to] = self.running[row]

    def _keep(self, row: int) -> None:
        sequence = self.running[row]
        if not self._kept or sequence.held < MIN_REUSE_TOKENS or sequence.needs_all_logits:
            return
        # The beginning of a sequence that is too long to be kept whole is still worth keeping.
        tokens = np.asarray(sequence.tokens[: min(sequence.held, self._kept_tokens)], dtype=np.int64)
        if len(tokens) < MIN_REUSE_TOKENS:
            return
        self._clock += 1
        for place, kept in self._kept.items():
            if kept is None:
                continue
            common = _common(kept.tokens, tokens)
            if common == len(tokens):  # it is there already, perhaps longer
                kept.used = self._clock
                return
            if common == len(kept.tokens):  # an earlier turn of the same sequence
                self._store(row, tokens, place=place)
                return
        ages = {place: 0 if kept is None else kept.used for place, kept in self._kept.items()}
        oldest = min(ages, key=lambda place: ages[place])
        self._store(row, tokens, place=oldest)

    def _store(self, row: int, tokens: IntArray, *, place: int) -> None:
        self._forget(place)
        while sum(len(kept.tokens) for kept in self._kept.values() if kept) + len(tokens) > self._kept_tokens:
            ages = {other: kept.used for other, kept in self._kept.items() if kept}
            self._forget(min(ages, key=lambda other: ages[other]))
        self.cache.copy(source=row, row=place, length=len(tokens))
        self._kept[place] = _Kept(tokens=tokens, used=self._clock)

    def _forget(self, place: int) -> None:
        self.cache.truncate(place, length=0)
        self._kept[place] = None

    def _best(self, sequence: Sequence) -> tuple[int, int]:
        """The row that shares the longest beginning with a prompt, and its length; never the whole prompt."""
        prompt = np.asarray(sequence.generation.prompt[:-1], dtype=np.int64)
        best = (-1, 0)
        if len(prompt) < MIN_REUSE_TOKENS:
            return best
        for place, kept in self._kept.items():
            if kept is not None and (common := _common(kept.tokens, prompt)) > best[1]:
                best = (place, common)
        if best[0] >= 0 and (chosen := self._kept[best[0]]) is not None:
            self._clock += 1
            chosen.used = self._clock
        for row, other in enumerate(self.running[:-1]):
            held = np.asarray(other.tokens[: other.held], dtype=np.int64)
            if (common := _common(held, prompt)) > best[1]:
                best = (row, common)
        return best


def _common(first: IntArray, second: IntArray) -> int:
    size = min(len(first), len(second))
    differs = np.flatnonzero(first[:size] != second[:size])
    return int(differs[0]) if len(differs) else size
