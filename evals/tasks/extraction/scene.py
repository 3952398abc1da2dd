"""Draws extraction scenes.

The context holds four records in prose, each after one of four patterns.
A question names a person and fields.
"""

from evals.tasks.draw import Draw
from evals.tasks.scene import Form, Question, Scene, distinct
from evals.tasks.words import FIELDS

_RECORDS = 4
_PATTERNS = (
    "{name} in {city} bought a {colour} {item} on {day}",
    "{name} of {city} on {day} sold the {colour} {item}",
    "{name} was sent a {colour} {item} in {city} on {day}",
    "{name} on {day} bought the {colour} {item} in {city}",
)
_ASKED = tuple(field for field in FIELDS if field != "name")
_WRONG = 3


def draw_extraction(draw: Draw) -> Scene:
    """Draw some records; each question asks for fields of one of them."""
    columns = {field: draw.sample(values, count=_RECORDS) for field, values in FIELDS.items()}
    records = [{field: columns[field][row] for field in FIELDS} for row in range(_RECORDS)]
    prose = " . ".join(draw.pick(_PATTERNS).format(**record) for record in records)

    def ask(draw: Draw, form: Form) -> Question:
        record = draw.pick(records)
        if form == "generate":
            fields = draw.sample(_ASKED, count=2 + draw.below(2))
            return Question(
                f"fields {' '.join(fields)} of {record['name']}", " ".join(record[field] for field in fields)
            )
        field = draw.pick(_ASKED)
        others = draw.shuffle([value for value in columns[field] if value != record[field]])
        return Question(
            f"field {field} of {record['name']}",
            record[field],
            distinct(record[field], others, count=_WRONG),
        )

    return Scene(f"records {prose} .", ask)
