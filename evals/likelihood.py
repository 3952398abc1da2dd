"""Log-likelihoods of continuations, for multiple-choice tasks and perplexities.

Choices of one question share its context. The context runs once; each choice is appended, scored and removed
again, so the KV cache of the context is neither computed nor copied twice. Choices of a single
token need no further forward at all: the context's last logits score them together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from compilers.runtime import Cache, FloatArray, Segment
from evals.batch import SampleBatch
from registry.errors import EvaluationError

_LOGITS_BYTES = 128 << 20
"""Limit on the logits of one `forward`, in bytes; longer continuations run in pieces."""
_MOST_TAILS = 8
"""Continuations that run one after the other on one row; more of them use another row."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """Tokens to score after a context."""

    context: Sequence[int]
    """At least one token."""
    tokens: Sequence[int]
    """At least one token."""


@dataclass(frozen=True, slots=True)
class Likelihood:
    """How likely a continuation is."""

    log_probability: float
    """Sum over its tokens, in nats."""
    is_greedy: bool
    """Whether each token is the most likely one at its place."""


@dataclass(slots=True)
class _Tail:
    """What runs after the shared context: a continuation without its last token."""

    tokens: tuple[int, ...]
    places: list[int]
    """Indices of the continuations that it scores; they differ in their last token only."""


@dataclass(slots=True)
class _Group:
    """Continuations of one context."""

    prefix: tuple[int, ...]
    """The context, cut from the left where it is too long."""
    short: list[int] = field(default_factory=list)
    """Indices of one-token continuations."""
    tails: dict[tuple[int, ...], _Tail] = field(default_factory=dict)

    def add(self, tail: tuple[int, ...], *, place: int) -> None:
        if tail:
            self.tails.setdefault(tail, _Tail(tail, [])).places.append(place)
        else:
            self.short.append(place)


def score_continuations(
    rows: SampleBatch, continuations: Sequence[Continuation], *, progress: Callable[[int], None] | None = None
) -> list[Likelihood]:
    """The likelihood of each continuation, in the given order.

    A context that does not fit is cut from the left, as lm-eval's `hf` backend does: the model sees the last
    `max_context` tokens of context and continuation without its last token.

    Args:
        rows: The cache to run in.
        continuations: What to score.
        progress: Called with the number of continuations scored since the last call.

    Raises:
        EvaluationError: A continuation is empty, longer than the context window, outside the vocabulary, or
            has no context.
    """
    session = rows.session
    groups = _grouped(continuations, window=session.max_context, vocabulary=session.vocab_size)
    results: dict[int, Likelihood] = {}
    size = rows.batch_size
    for start in range(0, len(groups), size):
        done = len(results)
        _score_groups(rows, groups[start : start + size], continuations, results)
        if progress is not None:
            progress(len(results) - done)
    return [results[place] for place in range(len(continuations))]


def _grouped(continuations: Sequence[Continuation], *, window: int, vocabulary: int) -> list[_Group]:
    """Continuations by their visible context, the longest context first: neighbours need little padding."""
    groups: dict[tuple[int, ...], _Group] = {}
    every: list[_Group] = []
    for place, continuation in enumerate(continuations):
        count = len(continuation.tokens)
        if not count or not continuation.context:
            raise EvaluationError(
                f"choice {place} has {count} tokens after {len(continuation.context)} tokens of context",
                hint="each choice must add at least one token to a context; check the task's YAML",
            )
        if count > window:
            raise EvaluationError(
                f"choice {place} has {count} tokens, the context window {window}",
                hint="take shorter choices, or a checkpoint with a longer context",
            )
        if max(continuation.tokens) >= vocabulary:
            raise EvaluationError(
                f"choice {place} holds token {max(continuation.tokens)}, the vocabulary ends at {vocabulary}",
                hint="tokenizer and weights do not belong together; check the checkpoint's files",
            )
        seen = (*continuation.context, *continuation.tokens)[-(window + 1) : -1]
        cut = len(seen) - count + 1
        group = groups.get(seen[:cut])
        if group is None or len(group.tails) >= _MOST_TAILS:
            group = groups[seen[:cut]] = _Group(seen[:cut])
            every.append(group)
        group.add(seen[cut:], place=place)
    return sorted(every, key=lambda group: (-len(group.prefix), group.prefix))


def _score_groups(
    rows: SampleBatch,
    groups: list[_Group],
    continuations: Sequence[Continuation],
    results: dict[int, Likelihood],
) -> None:
    # Groups with most tails first, so that the rows of each round are contiguous.
    groups = sorted(groups, key=lambda group: -len(group.tails))
    longest = max(len(group.prefix) + max((len(tail) for tail in group.tails), default=0) for group in groups)
    cache = rows.empty(capacity=longest)
    firsts = rows.forward(cache, [Segment(row, group.prefix) for row, group in enumerate(groups)])
    sums = [_log_normaliser(first)[0] for first in firsts]
    best = [int(first[0].argmax()) for first in firsts]

    def first_token(row: int, place: int) -> tuple[float, bool]:
        token = continuations[place].tokens[0]
        return float(firsts[row][0, token]) - sums[row], best[row] == token

    for row, group in enumerate(groups):
        for place in group.short:
            results[place] = Likelihood(*first_token(row, place))
    rounds = max((len(group.tails) for group in groups), default=0)
    pending = [list(group.tails.values()) for group in groups]
    for number in range(rounds):
        active = [(row, tails[number]) for row, tails in enumerate(pending) if number < len(tails)]
        scores = _score_tails(rows, cache, active, continuations)
        for row, tail in active:
            cache.truncate(row, length=len(groups[row].prefix))
            for place in tail.places:
                value, greedy = first_token(row, place)
                more, all_greedy = scores[place]
                results[place] = Likelihood(value + more, greedy and all_greedy)


def _score_tails(
    rows: SampleBatch, cache: Cache, active: list[tuple[int, _Tail]], continuations: Sequence[Continuation]
) -> dict[int, tuple[float, bool]]:
    """Append each tail to its row; log-probability and greediness of the tokens after the first."""
    scores = {place: (0.0, True) for _, tail in active for place in tail.places}
    piece = max(1, _LOGITS_BYTES // (4 * rows.session.vocab_size * len(active)))
    longest = max(len(tail.tokens) for _, tail in active)
    for start in range(0, longest, piece):
        running = [(row, tail) for row, tail in active if start < len(tail.tokens)]
        segments = [Segment(row, tail.tokens[start : start + piece], logits="all") for row, tail in running]
        for (_, tail), logits in zip(running, rows.forward(cache, segments), strict=True):
            sums, best = _log_normaliser(logits), logits.argmax(axis=1)
            steps = np.arange(len(logits))
            for place in tail.places:
                targets = np.asarray(continuations[place].tokens[start + 1 : start + 1 + len(logits)])
                gained = float((logits[steps, targets] - sums).sum())
                value, greedy = scores[place]
                scores[place] = (value + gained, greedy and bool((best == targets).all()))
    return scores


def _log_normaliser(logits: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Log Σ exp(logit) of each row, summed in double precision."""
    top = logits.max(axis=1, keepdims=True)
    summed = np.exp(logits - top).sum(axis=1, dtype=np.float64)
    return np.asarray(np.log(summed) + top[:, 0], dtype=np.float64)
