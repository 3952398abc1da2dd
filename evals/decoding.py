"""Batched greedy decoding of many prompts, for generation tasks.

Rows that finish are removed at once and the last active row moves into their place, so the active rows
stay contiguous; when half of them are done, waiting prompts fill the batch. A prompt's tokens do not
depend on the other prompts in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Cache, FloatArray, Segment
from evals.batch import SampleBatch

_LOOK_BACK = 4
"""Extra tokens decoded before those that a stop string can span: a window may lose its first space."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to continue, and when to stop."""

    tokens: Sequence[int]
    """At least one token."""
    max_new_tokens: int
    """At least one."""
    stops: tuple[str, ...] = ()
    """Texts that end the generation, special tokens among them; they are part of the tokens returned."""


@dataclass(slots=True)
class _Row:
    place: int
    prompt: Prompt
    tokens: list[int] = field(default_factory=list)


def decode_greedily(
    rows: SampleBatch,
    prompts: Sequence[Prompt],
    *,
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The tokens generated for each prompt, including the one that ended it.

    A generation ends at an EOS token, at a stop string in its text with or without the special tokens, or at
    `max_new_tokens`.

    Args:
        rows: The cache to run in; prompt and new tokens together must fit the session's context.
        prompts: What to continue.
        tokenizer: Gives the text that is searched for stop strings, and the EOS tokens.
        progress: Called with the number of prompts finished since the last call.
    """
    if not prompts:
        return []
    waiting = sorted(range(len(prompts)), key=lambda place: len(prompts[place].tokens))
    cache = rows.empty(capacity=max(len(prompt.tokens) + prompt.max_new_tokens for prompt in prompts))
    results: dict[int, list[int]] = {}
    active: list[_Row] = []
    while waiting or active:
        finished = 0
        if waiting and len(active) <= rows.batch_size // 2:
            started = len(active)
            while waiting and len(active) < rows.batch_size:
                place = waiting.pop()
                active.append(_Row(place, prompts[place]))
            segments = [Segment(row, active[row].prompt.tokens) for row in range(started, len(active))]
            _append(active[started:], rows.forward(cache, segments))
            finished += _retire(cache, active, results, tokenizer=tokenizer, since=started)
        elif active:
            segments = [Segment(row, (state.tokens[-1],)) for row, state in enumerate(active)]
            _append(active, rows.forward(cache, segments))
            finished += _retire(cache, active, results, tokenizer=tokenizer, since=0)
        if progress is not None and finished:
            progress(finished)
    return [results[place] for place in range(len(prompts))]


def _append(states: list[_Row], logits: list[FloatArray]) -> None:
    for state, row in zip(states, logits, strict=True):
        state.tokens.append(int(row[-1].argmax()))


def _retire(
    cache: Cache, active: list[_Row], results: dict[int, list[int]], *, tokenizer: Tokenizer, since: int
) -> int:
    """Take the finished rows from `since` on out of `active` and keep the cache's rows contiguous."""
    ended = _ended(active[since:], tokenizer=tokenizer)
    finished = [since + offset for offset, is_over in enumerate(ended) if is_over]
    for row in reversed(finished):
        state, last = active[row], len(active) - 1
        results[state.place] = state.tokens
        if row != last:
            cache.truncate(row, length=0)
            cache.copy(source=last, row=row, length=cache.length(last))
            active[row] = active[last]
        cache.truncate(last, length=0)
        active.pop()
    return len(finished)


def _ended(states: list[_Row], *, tokenizer: Tokenizer) -> list[bool]:
    eos = frozenset(tokenizer.eos_token_ids)
    ended = [state.tokens[-1] in eos or len(state.tokens) >= state.prompt.max_new_tokens for state in states]
    for number, state in enumerate(states):
        if state.prompt.stops and not ended[number]:
            ended[number] = _stops(state, tokenizer=tokenizer)
    return ended


def _stops(state: _Row, *, tokenizer: Tokenizer) -> bool:
    window = _window(state)
    shown = not tokenizer.special_ids.isdisjoint(window)
    # A window that starts inside the text may show a stop string that the whole text does not have.
    return any(
        _holds(tokenizer.decode(window, skip_special_tokens=skip), state)
        and _holds(tokenizer.decode(state.tokens, skip_special_tokens=skip), state)
        for skip in ((True, False) if shown else (True,))
    )


def _window(state: _Row) -> list[int]:
    """The last tokens, enough to hold any stop string: each token has at least one byte."""
    return state.tokens[-(max(len(stop.encode()) for stop in state.prompt.stops) + _LOOK_BACK) :]


def _holds(text: str, state: _Row) -> bool:
    return any(stop in text for stop in state.prompt.stops)
