"""Draws retrieval scenes.

The context holds eight notes, each about one thing of one colour.
Notes share colours and things with others, so neither alone finds the right one.
"""

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import CITIES, COLOURS, NUMBERS, THINGS

_NOTES = 8
_WRONG = 3


def draw_retrieval(draw: Draw) -> Scene:
    """Draw some notes; each question looks for one of them."""
    colours = draw.sample(COLOURS, count=4)
    things = draw.sample(THINGS, count=4)
    keys = draw.sample([(colour, thing) for colour in colours for thing in things], count=_NOTES)
    places = draw.sample(CITIES, count=_NOTES)
    hours = draw.sample(NUMBERS, count=_NOTES)
    notes = [
        f"{colour} {thing} {place} {hour}"
        for (colour, thing), place, hour in zip(keys, places, hours, strict=True)
    ]

    def ask(draw: Draw, form: Form) -> Question:
        at = draw.below(_NOTES)
        colour, thing = keys[at]
        if form == "generate":
            return Question(f"find all of {colour} {thing}", f"{places[at]} {hours[at]}")
        near = [
            place
            for key, place in zip(keys, places, strict=True)
            if key != keys[at] and (key[0] == colour or key[1] == thing)
        ]
        candidates = [*draw.shuffle(near)[:2], *draw.shuffle(places)]
        return Question(f"find {colour} {thing}", places[at], distinct(places[at], candidates, count=_WRONG))

    return Scene(f"notes {' ; '.join(notes)} .", ask)
