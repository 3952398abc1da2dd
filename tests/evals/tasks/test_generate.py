import json
from hashlib import sha256
from itertools import islice

import pytest

from evals.tasks import generate
from evals.tasks.catalog import CALIBRATION_FILE, FORMS, SAMPLES_PER_TASK, TASK_TYPES, TASKS_FOLDER, TaskType
from evals.tasks.draw import Draw
from evals.tasks.scene import Form, draw_scene, split_of
from evals.tasks.words import STOP, VOCABULARY

SPOT_SAMPLES = 40

each_task_type = pytest.mark.parametrize("task_type", TASK_TYPES.values(), ids=TASK_TYPES)
each_form = pytest.mark.parametrize("form", FORMS)


def committed(task_type: TaskType, form: Form) -> list[dict[str, object]]:
    return [json.loads(line) for line in (task_type.folder / f"{form}.jsonl").read_text().splitlines()]


@each_form
@each_task_type
def test_the_generator_still_writes_the_committed_samples(task_type: TaskType, form: Form) -> None:
    drawn = list(islice(generate.test_samples(task_type, form=form), SPOT_SAMPLES))
    assert drawn == committed(task_type, form)[:SPOT_SAMPLES]


def test_the_committed_files_have_the_recorded_digests() -> None:
    recorded = json.loads(generate.DIGESTS_FILE.read_text())
    assert {name: sha256((TASKS_FOLDER / name).read_bytes()).hexdigest() for name in recorded} == recorded
    assert len(recorded) == len(TASK_TYPES) * len(FORMS) + 1


def test_no_two_tasks_share_a_seed() -> None:
    seeds = [task_type.seed + number for task_type in TASK_TYPES.values() for number in range(len(FORMS))]
    assert len(set(seeds)) == len(TASK_TYPES) * len(FORMS)


@each_form
@each_task_type
def test_every_committed_sample_lies_in_the_test_split(task_type: TaskType, form: Form) -> None:
    samples = committed(task_type, form)
    assert len(samples) == SAMPLES_PER_TASK
    assert {split_of(str(sample["context"])) for sample in samples} == {"test"}
    assert len({(str(sample["context"]), str(sample["question"])) for sample in samples}) == SAMPLES_PER_TASK


@each_task_type
def test_a_trainer_can_never_draw_a_context_of_the_test_split(task_type: TaskType) -> None:
    draw = Draw(7)
    for _ in range(200):
        assert split_of(draw_scene(task_type.source, draw, split="train").context) == "train"


@each_task_type
def test_choices_differ_and_hold_exactly_one_right_answer(task_type: TaskType) -> None:
    for sample in committed(task_type, "choice"):
        choices = sample["choices"]
        assert isinstance(choices, list)
        assert len(set(choices)) == len(choices) == 4
        assert sample["gold"] in range(4)


@each_form
@each_task_type
def test_samples_use_known_words_only(task_type: TaskType, form: Form) -> None:
    known = set(VOCABULARY)
    for sample in committed(task_type, form):
        answers = sample.get("choices", [sample.get("answer")])
        assert isinstance(answers, list)
        words = " ".join([str(sample["context"]), str(sample["question"]), *map(str, answers)]).split()
        assert set(words) <= known
        assert STOP not in " ".join(map(str, answers)).split()


def test_calibration_texts_come_from_the_train_split() -> None:
    texts = [json.loads(line)["text"] for line in CALIBRATION_FILE.read_text().splitlines()]
    assert len(texts) == generate.CALIBRATION_TEXTS
    for text in texts:
        context, _ = text.split(f" {STOP} ", 1)
        assert split_of(f"{context} {STOP}") == "train"
