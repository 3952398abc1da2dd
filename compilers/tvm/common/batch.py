"""Batches of a session: the tokens of a call one after the other, as compiled code takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from compilers.ragged_cache import M, RaggedCache, check_segments
from compilers.runtime import Cache, FloatArray, Segment

Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Batch:
    """All tokens of a call, each with its row of the cache and its position in it."""

    tokens: Integers
    rows: Integers
    positions: Integers


def run_batch(
    cache: RaggedCache[M],
    segments: Sequence[Segment],
    *,
    vocab_size: int,
    run: Callable[[M, Batch, Integers], FloatArray],
) -> list[FloatArray]:
    """`Session.forward` over all segments as one batch.

    Args:
        cache: The session's own.
        segments: Are checked first.
        vocab_size: The model's.
        run: Computes the batch and returns the logits of the positions asked for.

    Raises:
        LoadError: A segment that cannot be appended; nothing was appended.
    """
    if not segments:
        return []
    check_segments(cache, segments, vocab_size=vocab_size)
    asked, counts = wanted(segments)
    logits = run(cache.memory, flatten(cache, segments), asked)
    cache.append(segments)
    ends = np.cumsum(counts)
    return [logits[end - count : end] for end, count in zip(ends, counts, strict=True)]


def flatten(cache: Cache, segments: Sequence[Segment]) -> Batch:
    """The tokens of some segments, which continue their rows."""
    counts = [len(segment.tokens) for segment in segments]
    starts = [cache.length(segment.row) for segment in segments]
    offsets = np.repeat(np.asarray(starts, np.int32) - np.cumsum([0, *counts[:-1]], dtype=np.int32), counts)
    return Batch(
        tokens=np.concatenate([np.asarray(segment.tokens, np.int32) for segment in segments]),
        rows=np.repeat(np.asarray([segment.row for segment in segments], np.int32), counts),
        positions=np.arange(sum(counts), dtype=np.int32) + offsets,
    )


def wanted(segments: Sequence[Segment]) -> tuple[Integers, list[int]]:
    """Flattened positions whose logits are asked for, and how many each segment asks."""
    parts: list[Integers] = []
    start = 0
    for segment in segments:
        end = start + len(segment.tokens)
        parts.append(np.arange(start if segment.logits == "all" else end - 1, end, dtype=np.int32))
        start = end
    return np.concatenate(parts), [len(part) for part in parts]
