"""Draws instruction-following scenes.

The context holds four lists of words, each named by a colour.
A question orders something to be done with one of them.
"""

from collections.abc import Callable
from typing import Final

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import COLOURS, THINGS

_LISTS = 4
_LONGEST = 4
_WRONG = 3

Order = Callable[[list[str]], list[str]]
ORDERS: Final[dict[str, Order]] = {
    "say list {colour}": lambda words: words,
    "say first list {colour}": lambda words: words[:1],
    "say last list {colour}": lambda words: words[-1:],
    "reverse list {colour}": lambda words: words[::-1],
    "say loud list {colour}": lambda words: [word.upper() for word in words],
    "say without first list {colour}": lambda words: words[1:],
    "repeat two times first list {colour}": lambda words: words[:1] * 2,
    "repeat three times first list {colour}": lambda words: words[:1] * 3,
    "repeat two times last list {colour}": lambda words: words[-1:] * 2,
    "repeat three times last list {colour}": lambda words: words[-1:] * 3,
}
"""Each order with what it does to a list."""


def draw_instruction_following(draw: Draw) -> Scene:
    """Draw some lists; each question is one order about one list."""
    words = draw.sample(THINGS, count=_LISTS * _LONGEST)
    lists = {
        colour: words[at * _LONGEST : at * _LONGEST + 3 + draw.below(2)]
        for at, colour in enumerate(draw.sample(COLOURS, count=_LISTS))
    }
    stated = " ; ".join(f"{colour} {' '.join(listed)}" for colour, listed in lists.items())

    def ask(draw: Draw, form: Form) -> Question:
        order = draw.pick(tuple(ORDERS))
        colour = draw.pick(tuple(lists))
        answer = " ".join(ORDERS[order](lists[colour]))
        text = order.format(colour=colour)
        if form == "generate":
            return Question(text, answer)
        elsewhere = [" ".join(ORDERS[order](lists[other])) for other in lists if other != colour]
        misread = [" ".join(carry_out(lists[colour])) for carry_out in ORDERS.values()]
        length = len(answer.split())
        candidates = [
            item for item in draw.shuffle(misread) if len(item.split()) == length and item != answer
        ]
        candidates = [
            *candidates[:1],
            *draw.shuffle([item for item in elsewhere if len(item.split()) == length]),
        ]
        candidates += [" ".join(draw.sample(words, count=length)) for _ in range(_WRONG)]
        return Question(text, answer, distinct(answer, candidates, count=_WRONG))

    return Scene(f"lists {stated} .", ask)
