"""Which segments of a call run together.

The graph takes a range of rows, each with any number of new tokens: matrix products see only real tokens, but
attention is padded to the longest segment of the range, and rows in between are carried along. So segments of
similar length and near rows run together, and long ones are cut into pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from compilers.runtime import Segment

PIECE_TOKENS = 512
"""Tokens of one row in one step; bounds the memory for attention scores."""
STEP_TOKENS = 2048
"""Tokens of all rows in one step; bounds the memory for activations."""
PADDING_FACTOR = 4
"""Padded places per real token that a step may have."""
PADDING_FREE = 256
"""Padded places that are always allowed."""


@dataclass(frozen=True, slots=True)
class StepPiece:
    """Consecutive tokens of one segment."""

    index: int
    """Of the segment in the call."""
    row: int
    begin: int
    end: int
    """Tokens [begin, end) of the segment."""

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class OrtStep:
    """Pieces that run in one call of the graph, sorted by row."""

    pieces: tuple[StepPiece, ...]

    @property
    def first(self) -> int:
        """First row."""
        return self.pieces[0].row

    @property
    def last(self) -> int:
        """Last row."""
        return self.pieces[-1].row

    @property
    def width(self) -> int:
        """Tokens of the longest piece."""
        return max(piece.tokens for piece in self.pieces)


def plan_steps(segments: Sequence[Segment], lengths: Sequence[int], *, positions: int) -> list[OrtStep]:
    """Steps that together append every segment, in an order that keeps each row's tokens in order.

    Args:
        segments: Of the call; each row at most once.
        lengths: Tokens that each row of the cache holds.
        positions: Places that each row of the buffers has.
    """
    held = list(lengths)
    steps: list[OrtStep] = []
    for wave in _waves(segments):
        for group in _by_length(wave):
            for step in _by_row(group, held, positions):
                steps.append(step)
                for piece in step.pieces:
                    held[piece.row] += piece.tokens
    return steps


def _waves(segments: Sequence[Segment]) -> Iterator[list[StepPiece]]:
    """First pieces of all segments, then second pieces, and so on; sorted by row."""
    order = sorted(range(len(segments)), key=lambda index: segments[index].row)
    begin = 0
    while True:
        wave = [
            StepPiece(
                index, segments[index].row, begin, min(begin + PIECE_TOKENS, len(segments[index].tokens))
            )
            for index in order
            if len(segments[index].tokens) > begin
        ]
        if not wave:
            return
        yield wave
        begin += PIECE_TOKENS


def _by_length(pieces: list[StepPiece]) -> list[list[StepPiece]]:
    """One group if its padding is bearable, else groups of similar length."""
    if _Extent.of(pieces).is_bearable:
        return [pieces]
    groups: dict[int, list[StepPiece]] = {}
    for piece in pieces:
        groups.setdefault((piece.tokens - 1).bit_length() // 2, []).append(piece)
    return list(groups.values())


def _by_row(pieces: list[StepPiece], held: Sequence[int], positions: int) -> Iterator[OrtStep]:
    """Runs of near rows that fit into the bounds of a step."""
    extent = _Extent.of(pieces)
    if extent.is_bearable and extent.tokens <= STEP_TOKENS and extent.fits(held, positions):
        yield OrtStep(tuple(pieces))
        return
    run = pieces[:1]
    extent = _Extent.of(run)
    for piece in pieces[1:]:
        longer = extent.with_piece(piece)
        if longer.is_bearable and longer.tokens <= STEP_TOKENS and longer.fits(held, positions):
            run.append(piece)
            extent = longer
        else:
            yield OrtStep(tuple(run))
            run = [piece]
            extent = _Extent.of(run)
    yield OrtStep(tuple(run))


@dataclass(frozen=True, slots=True)
class _Extent:
    """What pieces that run together span."""

    first: int
    last: int
    width: int
    tokens: int

    @classmethod
    def of(cls, pieces: Sequence[StepPiece]) -> _Extent:
        counts = [piece.tokens for piece in pieces]
        return cls(pieces[0].row, pieces[-1].row, max(counts), sum(counts))

    def with_piece(self, piece: StepPiece) -> _Extent:
        return _Extent(self.first, piece.row, max(self.width, piece.tokens), self.tokens + piece.tokens)

    @property
    def is_bearable(self) -> bool:
        places = (self.last - self.first + 1) * self.width
        return places <= PADDING_FACTOR * self.tokens + PADDING_FREE

    def fits(self, held: Sequence[int], positions: int) -> bool:
        """Whether every row of the range, carried along ones too, has room for the padded width."""
        return max(held[self.first : self.last + 1]) + self.width <= positions
