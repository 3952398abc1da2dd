"""The probe: a few fixed token sequences on which an artifact's logits are held against torch's.

It is run twice: all sequences in one ragged batch, and again as prompts that are continued in pieces and then
token by token. So padding, cache and positions are covered as well as the arithmetic. Where layers have a
sliding window, one sequence is longer than it; of a very long one only the last positions are compared.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from compilers.runtime import FloatArray, Segment, Session

MAX_LOGITS = 16_000_000
"""Logits of a probe: 64 MB as float32."""
MAX_POSITIONS = 768
SEQUENCES = 8
SHORTEST = 6
LONGEST = 160
TAIL = 24
"""Positions that are compared of a sequence longer than `LONGEST`, and behind a sliding window at least."""
SINGLE_STEPS = 6
"""Tokens at the end of each sequence that the second run appends one by one."""

Sequences = list[list[int]]


def make_probe(
    texts: Sequence[Sequence[int]],
    *,
    vocab_size: int,
    max_context: int,
    window: int | None = None,
    seed: int = 0,
) -> Sequences:
    """Token sequences of different lengths, from texts as far as there are any, and one of random tokens.

    Equal arguments give equal sequences. Compared positions times vocabulary stay within `MAX_LOGITS`, unless
    the vocabulary is so large that not even the shortest sequences would, or a window asks for more.

    Args:
        texts: Token ids of calibration texts.
        vocab_size: Tokens that there are.
        max_context: Positions that there are.
        window: The largest sliding window of a layer, in tokens; None: all layers see everything.
        seed: Of the random tokens.
    """
    draw = np.random.default_rng(seed)
    budget = max(min(MAX_POSITIONS, MAX_LOGITS // vocab_size), 2 * SHORTEST)
    count = max(2, min(SEQUENCES, budget // (2 * SHORTEST)))
    longest = min(LONGEST, max_context, max(SHORTEST, 2 * budget // count - SHORTEST))
    lengths = np.linspace(longest, min(SHORTEST, longest), count).astype(int)
    long_enough = sorted((list(text) for text in texts if len(text) >= SHORTEST), key=len, reverse=True)
    probe: Sequences = []
    for index, length in enumerate(lengths):
        random = [int(token) for token in draw.integers(0, vocab_size, length)]
        if index == count // 2 or not long_enough:
            probe.append(random)
        else:
            text = long_enough[index * max(1, len(long_enough) // count) % len(long_enough)]
            probe.append([int(token) for token in text[:length]])
    if window is not None and len(probe[0]) < min(window + TAIL, max_context):
        probe[0] = _stretched(long_enough, draw, length=min(window + TAIL, max_context), vocab=vocab_size)
    return probe


def counted(sequence: Sequence[int]) -> int:
    """How many positions at the end of a sequence are compared."""
    return len(sequence) if len(sequence) <= LONGEST else TAIL


def positions_of(probe: Sequence[Sequence[int]]) -> int:
    """How many positions of a probe are compared."""
    return sum(counted(sequence) for sequence in probe)


def reference_logits(session: Session, probe: Sequence[Sequence[int]]) -> FloatArray:
    """Logits of a probe's compared positions, one sequence after the other, float32 [positions, vocab]."""
    capacity = max(len(sequence) for sequence in probe)
    cache = session.new_cache(rows=len(probe), capacity=capacity)
    heads = [len(sequence) - counted(sequence) for sequence in probe]
    unseen = [
        Segment(row, sequence[:head], "last")
        for row, (sequence, head) in enumerate(zip(probe, heads, strict=True))
        if head
    ]
    if unseen:
        session.forward(cache, unseen)
    segments = [
        Segment(row, sequence[head:], "all")
        for row, (sequence, head) in enumerate(zip(probe, heads, strict=True))
    ]
    return np.concatenate(session.forward(cache, segments))


def stepwise_logits(session: Session, probe: Sequence[Sequence[int]]) -> FloatArray:
    """The same logits, got by a first part, a continuation, and single tokens at the end."""
    capacity = max(len(sequence) for sequence in probe)
    cache = session.new_cache(rows=len(probe) + 1, capacity=capacity)
    found: list[list[FloatArray]] = [[] for _ in probe]
    cuts = [_cuts(sequence) for sequence in probe]
    for step in range(max(len(cut) for cut in cuts) - 1):
        going = [row for row, cut in enumerate(cuts) if step + 1 < len(cut) and cut[step] < cut[step + 1]]
        # Row 0 stays empty, and rows are taken from the back: no row may depend on its place.
        segments = [
            Segment(
                len(probe) - row,
                probe[row][cuts[row][step] : cuts[row][step + 1]],
                "all" if _compares(probe[row], cuts[row][step]) else "last",
            )
            for row in going
        ]
        for row, logits in zip(going, session.forward(cache, segments) if segments else [], strict=True):
            if _compares(probe[row], cuts[row][step]):
                found[row].append(logits)
    return np.concatenate([part for parts in found for part in parts])


def _cuts(sequence: Sequence[int]) -> list[int]:
    """Where the stepwise run cuts a sequence; of a very long one, also before the compared positions."""
    end = max(1, len(sequence) - SINGLE_STEPS)
    first = len(sequence) - counted(sequence) or max(1, end // 2)
    return [0, first, end, *range(end + 1, len(sequence) + 1)]


def _compares(sequence: Sequence[int], begin: int) -> bool:
    """Whether the positions from `begin` on are compared."""
    return begin >= len(sequence) - counted(sequence)


def _stretched(
    texts: Sequence[Sequence[int]], draw: np.random.Generator, *, length: int, vocab: int
) -> list[int]:
    """One sequence of a length, of as many texts as it takes, or of random tokens."""
    joined = [int(token) for text in texts for token in text][:length]
    return [*joined, *(int(token) for token in draw.integers(0, vocab, length - len(joined)))]
