"""What every session promises, as tests: subclass once per runtime and provide the two fixtures.

class TestMine(SessionContract):
    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, …) -> Session: …            # of a small checkpoint with 300 tokens, 128 positions

    tolerance = 2e-5                              # of one way of grouping tokens against another
"""

from __future__ import annotations

import numpy as np
import pytest

from compilers.runtime import FloatArray, Segment, Session
from registry.errors import LoadError

VOCABULARY = 300
CONTEXT = 128


def draw(seed: int, count: int) -> list[int]:
    """`count` token ids."""
    return [int(token) for token in np.random.default_rng(seed).integers(0, VOCABULARY, count)]


class SessionContract:
    """Subclass with a fixture `session`."""

    tolerance = 2e-5

    def same(self, found: FloatArray, expected: FloatArray) -> None:
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=self.tolerance * max(1, np.abs(expected).max())
        )

    def whole(self, session: Session, tokens: list[int]) -> FloatArray:
        cache = session.new_cache(rows=1, capacity=len(tokens))
        return session.forward(cache, [Segment(0, tokens, "all")])[0]

    def test_it_says_its_vocabulary_and_context(self, session: Session) -> None:
        assert session.vocab_size == VOCABULARY
        assert session.max_context == CONTEXT

    def test_last_logits_are_the_last_row_of_all_logits(self, session: Session) -> None:
        tokens = draw(0, 17)
        cache = session.new_cache(rows=1, capacity=20)
        last = session.forward(cache, [Segment(0, tokens)])[0]
        assert last.shape == (1, VOCABULARY)
        self.same(last, self.whole(session, tokens)[-1:])

    def test_prefill_and_single_token_steps_equal_one_pass(self, session: Session) -> None:
        tokens = draw(1, 24)
        expected = self.whole(session, tokens)
        cache = session.new_cache(rows=1, capacity=24)
        found = [session.forward(cache, [Segment(0, tokens[:9], "all")])[0]]
        found += [session.forward(cache, [Segment(0, [token])])[0] for token in tokens[9:]]
        self.same(np.concatenate(found), expected)
        assert cache.length(0) == 24

    def test_decoding_from_an_empty_row_equals_one_pass(self, session: Session) -> None:
        tokens = draw(2, 12)
        cache = session.new_cache(rows=1, capacity=12)
        found = [session.forward(cache, [Segment(0, [token])])[0] for token in tokens]
        self.same(np.concatenate(found), self.whole(session, tokens))

    def test_a_continuation_of_several_tokens_equals_one_pass(self, session: Session) -> None:
        tokens = draw(3, 30)
        cache = session.new_cache(rows=1, capacity=30)
        found = [
            session.forward(cache, [Segment(0, tokens[begin:end], "all")])[0]
            for begin, end in ((0, 7), (7, 8), (8, 21), (21, 30))
        ]
        self.same(np.concatenate(found), self.whole(session, tokens))

    def test_a_ragged_batch_equals_its_rows_alone(self, session: Session) -> None:
        rows = [draw(10 + row, count) for row, count in enumerate((40, 1, 13, 2, 27))]
        cache = session.new_cache(rows=5, capacity=48)
        found = session.forward(cache, [Segment(row, tokens, "all") for row, tokens in enumerate(rows)])
        for tokens, logits in zip(rows, found, strict=True):
            self.same(logits, self.whole(session, tokens))
        steps = [draw(20 + row, 4) for row in range(5)]
        for step in range(4):
            found = session.forward(cache, [Segment(row, [steps[row][step]]) for row in range(5)])
        for row in range(5):
            self.same(found[row], self.whole(session, rows[row] + steps[row])[-1:])

    def test_fresh_continued_and_single_tokens_mix_in_one_call(self, session: Session) -> None:
        held = {0: draw(30, 11), 2: draw(31, 5), 5: draw(32, 20)}
        cache = session.new_cache(rows=7, capacity=40)
        session.forward(cache, [Segment(row, tokens) for row, tokens in held.items()])
        new = {5: draw(33, 6), 0: draw(34, 1), 3: draw(35, 9), 6: draw(36, 1), 2: draw(37, 3)}
        found = session.forward(cache, [Segment(row, tokens, "all") for row, tokens in new.items()])
        for (row, tokens), logits in zip(new.items(), found, strict=True):
            before = held.get(row, [])
            self.same(logits, self.whole(session, before + tokens)[len(before) :])
            assert cache.length(row) == len(before) + len(tokens)

    def test_rows_without_a_segment_keep_what_they_hold(self, session: Session) -> None:
        tokens, last = draw(40, 16), draw(41, 1)
        cache = session.new_cache(rows=4, capacity=17)
        session.forward(cache, [Segment(1, tokens), Segment(2, draw(42, 17))])
        for _ in range(3):
            session.forward(cache, [Segment(0, draw(43, 4)), Segment(3, draw(44, 5))])
        assert cache.length(2) == 17
        self.same(session.forward(cache, [Segment(1, last)])[0], self.whole(session, tokens + last)[-1:])

    def test_a_copied_prefix_continues_like_the_original(self, session: Session) -> None:
        prefix = draw(50, 15)
        cache = session.new_cache(rows=4, capacity=32)
        session.forward(cache, [Segment(0, prefix)])
        endings = [draw(51, 3), draw(52, 5), draw(53, 1)]
        for row in range(1, 4):
            cache.copy(source=0, row=row, length=len(prefix))
        found = session.forward(
            cache, [Segment(row + 1, ending, "all") for row, ending in enumerate(endings)]
        )
        for ending, logits in zip(endings, found, strict=True):
            self.same(logits, self.whole(session, prefix + ending)[len(prefix) :])
        assert cache.length(0) == len(prefix)

    def test_a_truncated_row_forgets_what_was_cut(self, session: Session) -> None:
        tokens, other = draw(60, 20), draw(61, 6)
        cache = session.new_cache(rows=2, capacity=32)
        session.forward(cache, [Segment(1, tokens)])
        cache.truncate(1, length=8)
        assert cache.length(1) == 8
        found = session.forward(cache, [Segment(1, other, "all")])[0]
        self.same(found, self.whole(session, tokens[:8] + other)[8:])
        cache.truncate(1, length=0)
        self.same(session.forward(cache, [Segment(1, other, "all")])[0], self.whole(session, other))

    def test_a_row_may_be_filled_to_its_capacity(self, session: Session) -> None:
        tokens = draw(70, CONTEXT)
        cache = session.new_cache(rows=3, capacity=CONTEXT)
        session.forward(cache, [Segment(1, tokens[:-1])])
        last = session.forward(cache, [Segment(1, tokens[-1:])])[0]
        self.same(last, self.whole(session, tokens)[-1:])
        beside = session.forward(cache, [Segment(0, tokens[:50], "all"), Segment(2, tokens[:3], "all")])
        self.same(beside[0], self.whole(session, tokens[:50]))

    @pytest.mark.parametrize("count", [5, 9])
    def test_a_row_beyond_its_capacity_is_refused_and_nothing_is_appended(
        self, session: Session, count: int
    ) -> None:
        cache = session.new_cache(rows=2, capacity=12)
        session.forward(cache, [Segment(0, draw(80, 8)), Segment(1, draw(81, 2))])
        with pytest.raises(LoadError, match="row 0 holds 8 tokens"):
            session.forward(cache, [Segment(1, draw(82, 3)), Segment(0, draw(83, count))])
        assert [cache.length(0), cache.length(1)] == [8, 2]
        tokens = draw(84, 2)
        found = session.forward(cache, [Segment(1, tokens, "all")])[0]
        self.same(found, self.whole(session, draw(81, 2) + tokens)[2:])

    @pytest.mark.parametrize(
        ("segments", "message"),
        [
            ([Segment(4, [1])], "row 4"),
            ([Segment(0, [1]), Segment(0, [2])], "two segments"),
            ([Segment(0, [])], "no token"),
            ([Segment(0, [1, VOCABULARY])], f"token id {VOCABULARY}"),
            ([Segment(0, [-1])], "token id -1"),
        ],
    )
    def test_a_wrong_segment_is_refused_by_name(
        self, session: Session, segments: list[Segment], message: str
    ) -> None:
        cache = session.new_cache(rows=2, capacity=8)
        with pytest.raises(LoadError, match=message):
            session.forward(cache, segments)
        assert cache.length(0) == 0

    def test_a_cache_beyond_the_context_is_refused(self, session: Session) -> None:
        with pytest.raises(LoadError, match=f"capacity of {CONTEXT + 1} tokens"):
            session.new_cache(rows=1, capacity=CONTEXT + 1)

    def test_two_caches_do_not_see_each_other(self, session: Session) -> None:
        first, second = (session.new_cache(rows=2, capacity=24) for _ in range(2))
        a, b = draw(90, 12), draw(91, 12)
        session.forward(first, [Segment(0, a[:6])])
        session.forward(second, [Segment(0, b[:6])])
        self.same(session.forward(first, [Segment(0, a[6:], "all")])[0], self.whole(session, a)[6:])
        self.same(session.forward(second, [Segment(0, b[6:], "all")])[0], self.whole(session, b)[6:])
