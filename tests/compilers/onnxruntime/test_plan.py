"""Plans: every token once, in order, within the bounds of a step and of the buffers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from compilers.onnxruntime.cache import SPARE_POSITIONS
from compilers.onnxruntime.plan import (
    PADDING_FACTOR,
    PADDING_FREE,
    PIECE_TOKENS,
    STEP_TOKENS,
    plan_steps,
)
from compilers.runtime import Segment

CAPACITY = 3000


@given(
    held=st.lists(st.integers(0, 2000), min_size=1, max_size=40),
    data=st.data(),
)
def test_a_plan_appends_every_token_once_and_in_order_within_its_bounds(
    held: list[int], data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.integers(0, len(held) - 1), min_size=1, unique=True))
    sizes = st.one_of(st.just(1), st.integers(1, 8), st.integers(1, 1000))
    segments = [Segment(row, [0] * data.draw(sizes)) for row in rows]
    positions = CAPACITY + SPARE_POSITIONS
    lengths = list(held)
    seen = dict.fromkeys(rows, 0)
    for step in plan_steps(segments, held, positions=positions):
        tokens = sum(piece.tokens for piece in step.pieces)
        assert [piece.row for piece in step.pieces] == sorted({piece.row for piece in step.pieces})
        assert tokens <= max(STEP_TOKENS, PIECE_TOKENS)
        assert (step.last - step.first + 1) * step.width <= PADDING_FACTOR * tokens + PADDING_FREE
        assert all(lengths[row] + step.width <= positions for row in range(step.first, step.last + 1))
        for piece in step.pieces:
            assert segments[piece.index].row == piece.row
            assert piece.begin == seen[piece.row]
            seen[piece.row] = piece.end
            lengths[piece.row] += piece.tokens
    assert seen == {segment.row: len(segment.tokens) for segment in segments}


@given(held=st.lists(st.integers(1, 500), min_size=1, max_size=64))
def test_a_batch_of_single_tokens_is_one_step(held: list[int]) -> None:
    segments = [Segment(row, [1]) for row in range(len(held))]
    assert len(plan_steps(segments, held, positions=600)) == 1


def test_a_long_prompt_does_not_pad_the_rows_that_decode_beside_it() -> None:
    segments = [Segment(row, [1] * (500 if row == 17 else 1)) for row in range(32)]
    steps = plan_steps(segments, [50] * 32, positions=1000)
    assert len(steps) == 2
    assert sorted(step.width for step in steps) == [1, 500]


def test_a_full_row_is_not_carried_along_where_padding_would_not_fit() -> None:
    segments = [Segment(0, [1] * 50), Segment(2, [1] * 50)]
    steps = plan_steps(segments, [0, 100, 0], positions=100 + SPARE_POSITIONS)
    assert [(step.first, step.last) for step in steps] == [(0, 0), (2, 2)]
