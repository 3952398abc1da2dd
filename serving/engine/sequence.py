"""Sequences: one prompt on its way to one completion, and the events that its caller hears of.

A sequence knows nothing of rows, threads or HTTP. `serving/engine/engine.py` feeds it logits; it decides on
tokens, text and when it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from compilers.model.tokenizer import TextStream, Tokenizer
from compilers.runtime import FloatArray
from serving.engine.sampling import IntArray, Sampler, Sampling, TokenLogprob, logprobs
from serving.engine.stop import StopMatcher

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class Generation:
    """What is asked of the engine for one completion."""

    prompt: tuple[int, ...]
    """Token ids, BOS included where the checkpoint wants it; at least one."""
    max_tokens: int
    """Tokens to generate at most; 0 only scores the prompt."""
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    top_logprobs: int | None = None
    """How many likely tokens to name at each place; None: no log-probabilities."""
    score_prompt: bool = False
    """Log-probabilities of the prompt's own tokens as well."""
    ignore_eos: bool = False
    """Go on after an end token; for measurements."""
    stream: bool = False
    """One event for every new piece of text, instead of one at the end."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """New text of a sequence, and how it ended if it did."""

    text: str
    logprobs: tuple[TokenLogprob, ...]
    """Of generated tokens; an end token is among them."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Only in the first event of a sequence that scores its prompt."""
    finish: FinishReason | None = None
    completion_tokens: int = 0
    """Generated so far, an end token included."""
    reused_tokens: int = 0
    """Prompt tokens whose keys and values were there already."""


@dataclass(frozen=True, slots=True)
class GenerationFailure:
    """A sequence that could not be finished."""

    error: Exception


Event = TextPiece | GenerationFailure


class Sequence:
    """The state of one generation. Used by the engine's thread alone, but for `cancelled`."""

    def __init__(
        self, generation: Generation, *, tokenizer: Tokenizer, emit: Callable[[Event], None]
    ) -> None:
        self.generation = generation
        self.tokens: list[int] = list(generation.prompt)
        """Prompt and generated tokens."""
        self.held = 0
        """How many of `tokens` the cache holds."""
        self.reused = 0
        self.cancelled = False
        """Set by any thread; the engine drops the sequence at its next step."""
        self.failed = False
        self.finish: FinishReason | None = None
        self.emit = emit
        self._eos = frozenset() if generation.ignore_eos else frozenset(tokenizer.eos_token_ids)
        self._sampler = Sampler(generation.sampling)
        self._tokenizer = tokenizer
        self._stream = TextStream(tokenizer)
        self._decodes_late = not (generation.stream or generation.stop or generation.top_logprobs is not None)
        """Nobody looks at the text before its end: then it is decoded once, there."""
        self._stops = StopMatcher(generation.stop, is_hidden=tokenizer.names_special_token)
        self._decoded = 0
        """Characters that tokens have given so far, stop strings included."""
        self._sent = 0
        """Characters that have passed the stop strings."""
        self._text: list[str] = []
        self._scores: list[tuple[int, TokenLogprob]] = []
        """(character at which the token begins, score) that are still to be sent."""
        self._prompt_scores: list[TokenLogprob] = []

    @property
    def generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.generation.prompt)

    @property
    def needs_all_logits(self) -> bool:
        """Whether the prompt's own tokens are to be scored."""
        return self.generation.score_prompt and self.generation.top_logprobs is not None

    @property
    def unread(self) -> IntArray:
        """The prompt's tokens that the cache does not hold yet."""
        return np.asarray(self.generation.prompt[self.held :], dtype=np.int64)

    def take_prompt(self, logits: FloatArray, *, count: int) -> None:
        """The next `count` prompt tokens went into the cache and gave these logits.

        Args:
            logits: Shape [count, vocab] if `needs_all_logits`, else [1, vocab].
            count: Prompt tokens read in this step.
        """
        prompt, start = self.generation.prompt, self.held
        self.held += count
        if self.needs_all_logits:
            top = self.generation.top_logprobs or 0
            if start == 0:
                self._prompt_scores.append(TokenLogprob(token=prompt[0], logprob=None))
            followers = list(prompt[start + 1 : start + count + 1])
            self._prompt_scores += logprobs(logits[: len(followers)], tokens=followers, top=top)
        if self.held < len(prompt):
            return
        if self.generation.max_tokens == 0:
            self._end("length")
        else:
            self._take(logits[-1:])

    def take_token(self, logits: FloatArray) -> None:
        """The last token went into the cache and gave these logits, of shape [1, vocab]."""
        self.held += 1
        self._take(logits)

    def _take(self, logits: FloatArray) -> None:
        token = self._sampler.draw(logits[0])
        self.tokens.append(token)
        if self.generation.top_logprobs is not None:
            score = logprobs(logits[:1], tokens=[token], top=self.generation.top_logprobs)[0]
            self._scores.append((self._decoded, score))
        if token in self._eos:
            self._end("stop")
            return
        if not self._decodes_late:
            self._push(self._stream.push(token))
            self._seek_special(token)
        if self._stops.stopped:
            self._scores = [entry for entry in self._scores if entry[0] < self._sent]
            self._end("stop")
        elif self.generated >= self.generation.max_tokens:
            self._end("length")
        elif self.generation.stream:
            self._send()

    def _push(self, text: str) -> None:
        self._decoded += len(text)
        self._pass(self._stops.push(text))

    def _pass(self, passed: str) -> None:
        self._sent += len(passed)
        if passed:
            self._text.append(passed)

    def _seek_special(self, token: int) -> None:
        """Let the stop strings see a special token, which the text does not have."""
        text = self._tokenizer.special_text(token) if self._stops.seeks_special_tokens else None
        if text is None:
            return
        self._pass(self._stops.push_special(text))
        if self._stops.stopped:
            self._text.append(self._stream.flush())  # held back for what would have come

    def _end(self, reason: FinishReason) -> None:
        if self._decodes_late:
            self._push(self._tokenizer.decode(self.tokens[len(self.generation.prompt) :]))
        elif not self._stops.stopped:
            self._push(self._stream.flush())
        if self._stops.stopped:
            reason = "stop"
        else:
            self._text.append(self._stops.finish())
        self.finish = reason
        self._send()

    def _send(self) -> None:
        if self.finish is None:
            ready = sum(1 for start, _ in self._scores if start < self._sent)
        else:
            ready = len(self._scores)
        text, scores = "".join(self._text), tuple(score for _, score in self._scores[:ready])
        if self.finish is None and not text and not scores and not self._prompt_scores:
            return
        self.emit(
            TextPiece(
                text=text,
                logprobs=scores,
                prompt_logprobs=tuple(self._prompt_scores),
                finish=self.finish,
                completion_tokens=self.generated,
                reused_tokens=self.reused,
            )
        )
        self._text.clear()
        self._prompt_scores.clear()
        del self._scores[:ready]
