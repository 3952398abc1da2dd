"""Writes the samples of SmolLM2's example tasks: cities to extract from a sentence, and capitals to know.

Usage: `python examples/smollm2/tasks/write.py` (the files are committed; a test compares them)
"""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
SEED: Final = 2024
SENTENCES: Final = 120
NAMES: Final = ("Anna", "Erik", "Chen", "Maria", "Omar", "Lucy", "Ivan", "Sara", "Tomas", "Aisha", "Yuki")
JOBS: Final = ("an engineer", "a doctor", "a teacher", "a pilot", "a nurse", "a lawyer", "a baker")


def main() -> None:
    """Write every file beside this one."""
    for name, documents in files().items():
        text = "".join(json.dumps(document) + "\n" for document in documents)
        (HERE / name).write_text(text, encoding="utf-8")


def files() -> Mapping[str, list[Mapping[str, object]]]:
    """File name → its documents."""
    draw = random.Random(SEED)
    with (HERE / "capitals.csv").open(encoding="utf-8", newline="") as lines:
        capitals = {row["country"]: row["capital"] for row in csv.DictReader(lines)}
    cities = list(capitals.values())
    return {
        "city_shots.jsonl": [_sentence(draw, cities) for _ in range(3)],
        "city.jsonl": [_sentence(draw, cities) for _ in range(SENTENCES)],
        "capitals.jsonl": list(_questions(draw, capitals)),
    }


def _sentence(draw: random.Random, cities: list[str]) -> Mapping[str, object]:
    name, city = draw.choice(NAMES), draw.choice(cities)
    text = f"{name}, aged {draw.randint(20, 60)}, works as {draw.choice(JOBS)} in {city}."
    return {"question": f'Text: "{text}" In which city does {name} work?', "answer": city}


def _questions(draw: random.Random, capitals: Mapping[str, str]) -> Iterable[Mapping[str, object]]:
    for country, capital in capitals.items():
        others = draw.sample([city for city in capitals.values() if city != capital], 3)
        choices = draw.sample([capital, *others], 4)
        yield {
            "country": country,
            "answer": capital,
            "choices": [f"The capital of {country} is {city}." for city in choices],
            "label": choices.index(capital),
        }


if __name__ == "__main__":
    main()
