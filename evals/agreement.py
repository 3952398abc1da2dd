"""Agreement with a reference implementation: its greedy answers, logits and sample outcomes, up to ties.

Two correct implementations of a checkpoint round differently. Their greedy answers are equal up to the first
tie: a place where the two likeliest tokens of the reference are closer than the bound of parity lets a logit
be off (`compilers/check/bounds.py`). This module compares; it loads neither an artifact nor a reference.
`examples/smollm2/agreement.py` does, with transformers and with lm-eval's `hf` backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compilers.check.bounds import FLOAT_BOUND
from compilers.check.float_error import FloatError
from compilers.runtime import FloatArray, Segment, Session

MOST_TIES: Final = 0.02
"""Share of the compared answers or samples that may differ by a tie."""
_UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for the first bytes of a character whose other bytes are in the next token."""


@dataclass(frozen=True, slots=True)
class GreedyChoice:
    """One choice of the reference: the next token, or one of the answers that a question offers."""

    lead: float
    """How far the best is ahead of the second best, in logits or in nats."""
    bound: float
    """How far a correct implementation may be off here, in the same unit."""

    @property
    def is_tie(self) -> bool:
        """Whether a correct implementation may choose differently."""
        return self.lead < self.bound


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """An answer as a caller gets it."""

    text: str
    ended: bool
    """By a stop token, not by the limit on tokens."""


@dataclass(frozen=True, slots=True)
class ReferenceAnswer:
    """A greedy answer of the reference."""

    texts: tuple[str, ...]
    """The text after each token; the last is the whole answer."""
    choices: tuple[GreedyChoice, ...]
    """One for each token, the stop token at the end included."""
    ended: bool
    """By a stop token, not by the limit on tokens."""

    @property
    def answer(self) -> ChatAnswer:
        """What a caller gets."""
        return ChatAnswer(self.texts[-1], ended=self.ended)


@dataclass(frozen=True, slots=True)
class Difference:
    """An answer or outcome that is not the reference's."""

    item: str
    """Which one."""
    ours: str
    reference: str
    choice: GreedyChoice
    """The choice of the reference where the two part."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of a comparison."""

    compared: int
    """Answers or samples."""
    differences: tuple[Difference, ...]

    @property
    def ties(self) -> tuple[Difference, ...]:
        """Differences that rounding explains."""
        return tuple(one for one in self.differences if one.choice.is_tie)

    @property
    def contradictions(self) -> tuple[Difference, ...]:
        """Differences that it does not."""
        return tuple(one for one in self.differences if not one.choice.is_tie)

    @property
    def holds(self) -> bool:
        """Whether something was compared, all differences are ties, and these are few enough."""
        few = len(self.ties) <= MOST_TIES * self.compared
        return self.compared > 0 and not self.contradictions and few


def compare_answer(item: str, *, ours: ChatAnswer, reference: ReferenceAnswer) -> Difference | None:
    """The difference between two greedy answers to one prompt; None where they are equal.

    Args:
        item: Names the prompt.
        ours: The answer to check.
        reference: The reference's.
    """
    theirs = reference.answer
    if ours == theirs:
        return None
    place = _parting(ours.text, reference.texts)
    return Difference(item, _words(ours), _words(theirs), reference.choices[place])


def compare_outcome(
    item: str, *, ours: float, reference: float, choices: Sequence[GreedyChoice]
) -> Difference | None:
    """The difference between the outcomes of one sample; None where they are equal.

    Args:
        item: Names the sample.
        ours: The outcome to check.
        reference: The reference's.
        choices: All that the reference chose on the way to its answer. Outcomes do not say where two answers
            part, so the one that rounding changes most easily is held against its bound.
    """
    if ours == reference:
        return None
    closest = min(choices, key=lambda choice: choice.lead - choice.bound)
    return Difference(item, f"{ours:g}", f"{reference:g}", closest)


def token_choices(logits: FloatArray, *, bounds: NDArray[np.float64]) -> tuple[GreedyChoice, ...]:
    """The choices of a reference that decodes greedily.

    Args:
        logits: Its logits [positions, vocab].
        bounds: How far they may be off, per position (`logit_bounds`).
    """
    pairs = np.partition(logits.astype(np.float64), -2, axis=-1)[:, -2:]
    leads = pairs[:, 1] - pairs[:, 0]
    return tuple(GreedyChoice(float(lead), float(bound)) for lead, bound in zip(leads, bounds, strict=True))


def answer_choice(scores: Sequence[float], *, bounds: Sequence[float]) -> GreedyChoice:
    """The choice among answers that a question offers, by their log-likelihoods.

    Args:
        scores: Of each answer, in nats.
        bounds: How far each may be off: the sum of the bounds of its tokens.
    """
    second, best = sorted(range(len(scores)), key=lambda number: scores[number])[-2:]
    return GreedyChoice(scores[best] - scores[second], bounds[best] + bounds[second])


def logit_bounds(error: FloatError, *, factor: float = 1.0) -> NDArray[np.float64]:
    """How far the bound of float parity lets the logits of each position be off (root mean square).

    Args:
        error: The reference's own error on these positions.
        factor: Of the backend (`Backend.float_factor`).
    """
    return np.asarray(error.positions.astype(np.float64) * FLOAT_BOUND.position * factor)


def forced_logits(
    session: Session, *, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> FloatArray:
    """The logits from which each token of given answers would be chosen (teacher forcing).

    Prompts are read in one call and answers in another, so that the second reads the first's KV cache.

    Args:
        session: An artifact, or torch over the checkpoint.
        prompts: Token ids, two of each at least.
        answers: Those of each prompt's answer.

    Returns:
        One answer after the other, float32 [tokens of all answers, vocab].
    """
    longest = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
    cache = session.new_cache(rows=len(prompts), capacity=longest)
    session.forward(cache, [Segment(row, prompt[:-1], "last") for row, prompt in enumerate(prompts)])
    return np.concatenate(
        session.forward(
            cache,
            [
                Segment(row, [prompt[-1], *answer[:-1]], "all")
                for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
            ],
        )
    )


def _parting(text: str, texts: Sequence[str]) -> int:
    """The token of the reference where another answer's text leaves its own."""
    for place, grown in enumerate(texts):
        if not text.startswith(grown.rstrip(_UNFINISHED)):
            return place
    return len(texts) - 1


def _words(answer: ChatAnswer) -> str:
    return repr(answer.text) + (" and its end" if answer.ended else "")
