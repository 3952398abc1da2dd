"""A ladder with a task that cannot be loaded ends before anything is looked up, and changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipeline.conftest import LADDER, Place

OWN = '\n[task.own]\ntasks = ["mine"]\ninclude = "tasks"\nfloor = [0.0]\nmargin_points = 60.0\n'
TASK = """
task: mine
dataset_path: json
dataset_kwargs: {data_files: {test: data.jsonl}}
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: exact_match}]
"""


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """An empty workspace with a ladder that names a task of one's own."""
    made = Place(tmp_path)
    made.must("init")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.yaml").write_text(TASK)
    (tmp_path / "tasks/data.jsonl").write_text('{"question": "a", "answer": "b"}\n' * 20)
    made.write_ladder(LADDER + OWN)
    return made


@pytest.mark.parametrize(
    ("file", "text", "said", "hint"),
    [
        ("mine.yaml", TASK.replace("exact_match", "exact_mach"), "unknown metric", "`exact_match`"),
        ("mine.yaml", TASK + "include: [", "is not YAML", "correct"),
        ("data.jsonl", '{"question": "a", "answer": "b"}\n{"quest', "line 2 is not JSON", "correct"),
        ("data.jsonl", '{"question": "a", "answer": "b"}\n' * 2, "takes 2 samples", "margin_points = "),
    ],
)  # fmt: skip
def test_a_build_with_it_ends_with_exit_2_and_the_remedy(
    file: str, text: str, said: str, hint: str, place: Place
) -> None:
    (place.root / "tasks" / file).write_text(text)
    ran = place.rung("build", "ladder.toml")
    assert (ran.code, ran.out) == (2, "")
    assert "task.own" in ran.err
    assert said in ran.err
    assert hint in ran.err
    assert not (place.root / ".rung/rung.db").exists()


def test_a_build_with_good_tasks_comes_as_far_as_its_checkpoints(place: Place) -> None:
    ran = place.rung("build", "ladder.toml")
    assert ran.code == 3
    assert "tiny-a" in ran.err
