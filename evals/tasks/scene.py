"""Scenes: a context and the questions about it, and the split into train and test.

A test sample is a context with one question; a training document is a context with several. A hash of its
text decides which of the two a context may become, so that no test sample can ever be trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from evals.tasks.draw import Draw

Split = Literal["train", "test"]
Form = Literal["choice", "generate"]

_TEST_SHARE = 8
"""One in this many contexts belongs to the test split."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a scene, with its answer."""

    text: str
    answer: str
    wrong: tuple[str, ...] = ()
    """Answers that are wrong, for a multiple choice; empty for a generation."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A context, and a way to ask about it.

    Each call of `ask` draws a new question of the given form.
    """

    context: str
    ask: Callable[[Draw, Form], Question]


SceneSource = Callable[[Draw], Scene]
"""Draws a scene of one task type."""


def split_of(context: str) -> Split:
    """Say which split a context belongs to; a function of its text alone."""
    digest = blake2b(context.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % _TEST_SHARE == 0 else "train"


def draw_scene(source: SceneSource, draw: Draw, *, split: Split) -> Scene:
    """Draw scenes until one belongs to `split`."""
    while split_of((scene := source(draw)).context) != split:
        pass
    return scene


def prompt_of(context: str, question: str) -> str:
    """Join a context and a question as every task and the chat template do."""
    return f"{context} {question}"


def distinct(answer: str, candidates: list[str], *, count: int) -> tuple[str, ...]:
    """Return the first `count` candidates that differ from the answer and from each other."""
    return tuple(item for item in dict.fromkeys(candidates) if item != answer)[:count]
