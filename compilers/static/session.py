"""A session over two steps of fixed shape: one for a single token, one for S tokens.

Rows run one after the other. A segment runs in chunks of S tokens, the last one filled up with tokens that
no other sees and whose results are dropped; a few tokens run one by one instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from compilers.ragged_cache import RaggedCache, check_cache_size, check_segments, own_cache
from compilers.runtime import Cache, FloatArray, Segment
from compilers.static.cache import State, StaticKvMemory
from compilers.static.plan import StaticPlan
from registry.errors import LoadError

UNSEEN = -30000.0
"""What hides a place: far below every score, within float16, and exactly 0 behind the softmax."""
TOKENS_PER_PREFILL = 16
"""A chunk of at most S / 16 tokens is decoded token by token: that is faster than a step of S."""


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a step takes; shapes and types are those of `compilers/static/plan.py`."""

    input_ids: NDArray[np.int64] | NDArray[np.int32]
    cos: State
    sin: State
    masks: tuple[State, ...]
    """In the plan's order."""
    past: tuple[State, ...]
    """Key and value of each layer."""

    def arrays(self) -> tuple[State, ...]:
        """All of them, in the order of `StaticPlan.inputs`."""
        return (self.input_ids, self.cos, self.sin, *self.masks, *self.past)


@dataclass(frozen=True, slots=True)
class StepOutputs:
    """What a step returns."""

    logits: FloatArray
    """[S, vocab]."""
    new: list[State]
    """Key and value of each layer, [kv_heads, S, head_size]."""


class StaticStep(Protocol):
    """A compiled graph of fixed shape."""

    def run(self, inputs: StepInputs) -> StepOutputs:
        """Run it once.

        Raises:
            LoadError: The runtime failed.
        """
        ...


class StaticSession:
    """A `Session` (compilers/runtime.py). `max_context` is the plan's context, C."""

    def __init__(self, plan: StaticPlan, *, decode: StaticStep, prefill: StaticStep) -> None:
        self.vocab_size = plan.vocab_size
        self.max_context = plan.context
        self._plan = plan
        self._decode = decode
        self._prefill = prefill
        self._inv_freq = np.asarray(plan.inv_freq, np.float32)

    def new_cache(self, *, rows: int, capacity: int) -> RaggedCache[StaticKvMemory]:
        """An empty cache.

        Raises:
            LoadError: The sizes are not positive, or more than the artifact was compiled for.
        """
        check_cache_size(rows=rows, capacity=capacity, max_context=self.max_context)
        memory = StaticKvMemory(self._plan, rows=rows)
        return RaggedCache(memory, owner=self, rows=rows, capacity=capacity)

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits, float32 [1 or tokens, vocab].

        Raises:
            LoadError: A segment cannot be appended, or the runtime failed; nothing was appended.
        """
        own = own_cache(cache, owner=self, memory=StaticKvMemory)
        check_segments(own, segments, vocab_size=self.vocab_size)
        before = list(own.lengths)
        try:
            return [self._append(own, segment) for segment in segments]
        except LoadError:
            own.lengths[:] = before
            raise

    def _append(self, cache: RaggedCache[StaticKvMemory], segment: Segment) -> FloatArray:
        tokens, kept = list(segment.tokens), []
        while tokens:
            single = len(tokens) <= max(1, self._plan.tokens // TOKENS_PER_PREFILL)
            count = 1 if single else min(len(tokens), self._plan.tokens)
            inputs = self._inputs(
                cache, segment.row, tokens[:count], width=1 if single else self._plan.tokens
            )
            made = (self._decode if single else self._prefill).run(inputs)
            cache.memory.write(segment.row, made.new, begin=cache.lengths[segment.row], count=count)
            cache.lengths[segment.row] += count
            tokens = tokens[count:]
            if segment.logits == "all":
                kept.append(made.logits[:count])
            elif not tokens:
                kept.append(made.logits[count - 1 : count])
        return kept[0] if len(kept) == 1 else np.concatenate(kept)

    def _inputs(
        self, cache: RaggedCache[StaticKvMemory], row: int, tokens: list[int], *, width: int
    ) -> StepInputs:
        plan, held = self._plan, cache.lengths[row]
        ids = np.zeros((1, width), np.dtype(plan.ids))
        ids[0, : len(tokens)] = tokens
        angles = np.arange(held, held + width, dtype=np.float32)[:, None] * self._inv_freq
        scale = np.float32(plan.rope_scale)
        return StepInputs(
            input_ids=ids,
            cos=(np.cos(angles) * scale).astype(plan.compute),
            sin=(np.sin(angles) * scale).astype(plan.compute),
            masks=tuple(self._mask(held, width, mask.window) for mask in plan.masks),
            past=tuple(cache.memory.past(row)),
        )

    def _mask(self, held: int, width: int, window: int | None) -> State:
        """What hides empty places, later tokens and those before the window: [S, C + S]."""
        context = self._plan.context
        places = np.concatenate([np.arange(context), np.arange(held, held + width)])
        places[held:context] = np.iinfo(np.int32).max
        queries = np.arange(held, held + width)[:, None]
        seen = places <= queries
        if window is not None:
            seen &= places > queries - window
        return np.where(seen, 0.0, UNSEEN).astype(self._plan.compute)
