"""Draws extraction scenes.

The context holds one order in prose with seven labelled fields in any order, some of the same kind.
A question names one field, or two or three that the answer repeats with their labels.
"""

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import FIELDS

_PRESENT = 7
_LINKS = ("the", "a", "with", "and the", "and a", "with the")
_WRONG = 3


def draw_extraction(draw: Draw) -> Scene:
    """Draw an order; each question asks for some of its fields."""
    record = {field: draw.pick(FIELDS[field]) for field in draw.sample(tuple(FIELDS), count=_PRESENT)}
    prose = " ".join(f"{draw.pick(_LINKS)} {field} {value}" for field, value in record.items())

    def ask(draw: Draw, form: Form) -> Question:
        if form == "generate":
            fields = draw.sample(tuple(record), count=2 + draw.below(2))
            answer = " ".join(f"{field} {record[field]}" for field in fields)
            return Question(f"fields {' '.join(fields)} of order", answer)
        field = draw.pick(tuple(record))
        same_kind = [record[other] for other in record if FIELDS[other] is FIELDS[field]]
        others = draw.sample(FIELDS[field], count=_WRONG + 1)
        return Question(
            f"field {field}", record[field], distinct(record[field], [*same_kind, *others], count=_WRONG)
        )

    return Scene(f"order {prose} .", ask)
