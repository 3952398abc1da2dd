"""Draws reasoning scenes.

The context puts people before those they work for, in any order: four chains of three people.
The generation walks a chain step by step. The choice asks for the end of one or two steps at once.
Two are harder, as the step between has to be taken inside.
"""

from collections.abc import Mapping
from typing import Final

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, Split, distinct, split_of
from evals.tasks.words import NAMES

_CHAINS = 4
_CHAIN_LENGTH = 3
_TWO_STEPS_SHARE: Final[Mapping[Split, float]] = {"train": 0.4, "test": 0.25}
"""The harder choices are practised more than they are tested."""
_WRONG = 3


def draw_reasoning(draw: Draw) -> Scene:
    """Draw some chains of people; each question starts at one of them."""
    people = draw.sample(NAMES, count=_CHAINS * _CHAIN_LENGTH)
    chains = [people[start : start + _CHAIN_LENGTH] for start in range(0, len(people), _CHAIN_LENGTH)]
    pairs = [(chain[place], chain[place + 1]) for chain in chains for place in range(_CHAIN_LENGTH - 1)]
    stated = " ; ".join(f"{low} {high}" for low, high in draw.shuffle(pairs))

    context = f"staff {stated} ."
    two_steps_share = _TWO_STEPS_SHARE[split_of(context)]

    def ask(draw: Draw, form: Form) -> Question:
        chain = draw.pick(chains)
        if form == "generate":
            return Question(f"chain two up {chain[0]}", " ".join(chain[1:]))
        steps = 2 if draw.chance(two_steps_share) else 1
        start = draw.below(_CHAIN_LENGTH - steps)
        answer = chain[start + steps]
        near = [] if steps == 2 else [name for name in chain if name not in (answer, chain[start])]
        far = draw.sample([name for name in people if name not in chain], count=_WRONG)
        return Question(
            f"{'two' if steps == 2 else 'one'} up {chain[start]}",
            answer,
            distinct(answer, [*near, *far], count=_WRONG),
        )

    return Scene(context, ask)
