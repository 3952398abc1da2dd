"""The probe: a few fixed token sequences on which an artifact's logits are held against torch's.

It is run twice: all sequences in one ragged batch, and again as prompts that are continued in pieces and then
token by token. So padding, cache and positions are covered as well as the arithmetic.
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
SINGLE_STEPS = 6
"""Tokens at the end of each sequence that the second run appends one by one."""

Sequences = list[list[int]]


def make_probe(
    texts: Sequence[Sequence[int]], *, vocab_size: int, max_context: int, seed: int = 0
) -> Sequences:
    """Token sequences of different lengths, from texts as far as there are any, and one of random tokens.

    Equal arguments give equal sequences. Positions times vocabulary stay within `MAX_LOGITS`, unless the
    vocabulary is so large that not even the shortest sequences would.

    Args:
        texts: Token ids of calibration texts.
        vocab_size: Tokens that there are.
        max_context: Positions that there are.
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
    return probe


def reference_logits(session: Session, probe: Sequence[Sequence[int]]) -> FloatArray:
    """Logits of all positions of a probe, one sequence after the other, float32 [positions, vocab]."""
    capacity = max(len(sequence) for sequence in probe)
    cache = session.new_cache(rows=len(probe), capacity=capacity)
    segments = [Segment(row, sequence, "all") for row, sequence in enumerate(probe)]
    return np.concatenate(session.forward(cache, segments))


def stepwise_logits(session: Session, probe: Sequence[Sequence[int]]) -> FloatArray:
    """The same logits, got by a first part, a continuation, and single tokens at the end."""
    capacity = max(len(sequence) for sequence in probe)
    cache = session.new_cache(rows=len(probe) + 1, capacity=capacity)
    found: list[list[FloatArray]] = [[] for _ in probe]
    ends = [max(1, len(sequence) - SINGLE_STEPS) for sequence in probe]
    cuts = [
        [0, max(1, end // 2), end, *range(end + 1, len(sequence) + 1)]
        for sequence, end in zip(probe, ends, strict=True)
    ]
    for step in range(max(len(cut) for cut in cuts) - 1):
        going = [row for row, cut in enumerate(cuts) if step + 1 < len(cut) and cut[step] < cut[step + 1]]
        # Row 0 stays empty, and rows are taken from the back: no row may depend on its place.
        segments = [
            Segment(len(probe) - row, probe[row][cuts[row][step] : cuts[row][step + 1]], "all")
            for row in going
        ]
        for row, logits in zip(going, session.forward(cache, segments) if segments else [], strict=True):
            found[row].append(logits)
    return np.concatenate([part for parts in found for part in parts])
