"""Draws reasoning scenes.

The context says who works under whom, in any order: three chains of four people.
The generation walks a chain step by step. The choice asks for the end of one or two steps at once, which is harder:
the step between has to be taken inside.
"""

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import NAMES

_CHAINS = 3
_CHAIN_LENGTH = 4
_TWO_STEPS_SHARE = 0.5
_WRONG = 3


def draw_reasoning(draw: Draw) -> Scene:
    """Draw some chains of people; each question starts at one of them."""
    people = draw.sample(NAMES, count=_CHAINS * _CHAIN_LENGTH)
    chains = [people[start : start + _CHAIN_LENGTH] for start in range(0, len(people), _CHAIN_LENGTH)]
    pairs = [(chain[place], chain[place + 1]) for chain in chains for place in range(_CHAIN_LENGTH - 1)]
    stated = " ; ".join(f"{low} under {high}" for low, high in draw.shuffle(pairs))

    def ask(draw: Draw, form: Form) -> Question:
        chain = draw.pick(chains)
        if form == "generate":
            steps = 2 + draw.below(2)
            start = draw.below(_CHAIN_LENGTH - steps)
            walked = chain[start + 1 : start + 1 + steps]
            return Question(f"chain {_WORD[steps]} up from {chain[start]}", " ".join(walked))
        steps = 2 if draw.chance(_TWO_STEPS_SHARE) else 1
        if steps == 1 and draw.chance(0.3):
            place = 1 + draw.below(_CHAIN_LENGTH - 1)
            text, answer = f"one down from {chain[place]}", chain[place - 1]
        else:
            place = draw.below(_CHAIN_LENGTH - steps)
            text, answer = f"{_WORD[steps]} up from {chain[place]}", chain[place + steps]
        near = [name for name in chain if name not in (answer, chain[place])]
        far = draw.sample([name for name in people if name not in chain], count=_WRONG)
        return Question(text, answer, distinct(answer, [draw.pick(near), *far], count=_WRONG))

    return Scene(f"staff {stated} .", ask)


_WORD = {1: "one", 2: "two", 3: "three"}
