"""Draws reasoning scenes.

The context puts people before those they work for, in any order: four chains of three people.
The generation walks a chain step by step. The choice asks for the end of one or two steps at once.
Two are harder, as the step between has to be taken inside.
"""

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import NAMES

_CHAINS = 4
_CHAIN_LENGTH = 3
_TWO_STEPS_SHARE = 0.4
_WRONG = 3


def draw_reasoning(draw: Draw) -> Scene:
    """Draw some chains of people; each question starts at one of them."""
    people = draw.sample(NAMES, count=_CHAINS * _CHAIN_LENGTH)
    chains = [people[start : start + _CHAIN_LENGTH] for start in range(0, len(people), _CHAIN_LENGTH)]
    pairs = [(chain[place], chain[place + 1]) for chain in chains for place in range(_CHAIN_LENGTH - 1)]
    stated = " ; ".join(f"{low} {high}" for low, high in draw.shuffle(pairs))

    def ask(draw: Draw, form: Form) -> Question:
        chain = draw.pick(chains)
        if form == "generate":
            return Question(f"chain two up {chain[0]}", " ".join(chain[1:]))
        steps = 2 if draw.chance(_TWO_STEPS_SHARE) else 1
        start = draw.below(_CHAIN_LENGTH - steps)
        answer = chain[start + steps]
        near = [name for name in chain if name not in (answer, chain[start])]
        far = draw.sample([name for name in people if name not in chain], count=_WRONG)
        return Question(
            f"{'two' if steps == 2 else 'one'} up {chain[start]}",
            answer,
            distinct(answer, [*near, *far], count=_WRONG),
        )

    return Scene(f"staff {stated} .", ask)
