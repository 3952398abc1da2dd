"""Generates the test samples of every task type: `python -m evals.tasks.generate --write`, or `--check`.

The files are committed. They depend only on this code, which a test checks.
"""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from evals.tasks.catalog import (
    CALIBRATION_FILE,
    FORMS,
    SAMPLES_PER_TASK,
    TASK_TYPES,
    TASKS_FOLDER,
    TaskType,
)
from evals.tasks.draw import Draw
from evals.tasks.scene import Form, draw_scene, prompt_of
from evals.tasks.words import STOP

DIGESTS_FILE: Final = TASKS_FOLDER / "digests.json"
CALIBRATION_TEXTS: Final = 256
_QUESTIONS_PER_TEXT: Final = 4
_CALIBRATION_SEED: Final = 20_261_122

Sample = Mapping[str, str | int | list[str]]


def test_samples(task_type: TaskType, *, form: Form) -> Iterator[Sample]:
    """Yield the test samples of one task, each prompt once."""
    draw = Draw(task_type.seed + FORMS.index(form))
    seen: set[str] = set()
    while len(seen) < SAMPLES_PER_TASK:
        scene = draw_scene(task_type.source, draw, split="test")
        question = scene.ask(draw, form)
        prompt = prompt_of(scene.context, question.text)
        if prompt in seen:
            continue
        seen.add(prompt)
        if form == "generate":
            yield {"context": scene.context, "question": question.text, "answer": question.answer}
            continue
        choices = draw.shuffle((question.answer, *question.wrong))
        yield {
            "context": scene.context,
            "question": question.text,
            "choices": choices,
            "gold": choices.index(question.answer),
        }


def calibration_texts() -> Iterator[Sample]:
    """Yield prompts with their answers from the train split, the task types in turn."""
    draw = Draw(_CALIBRATION_SEED)
    task_types = tuple(TASK_TYPES.values())
    for place in range(CALIBRATION_TEXTS):
        scene = draw_scene(task_types[place % len(task_types)].source, draw, split="train")
        questions = [scene.ask(draw, draw.pick(FORMS)) for _ in range(_QUESTIONS_PER_TEXT)]
        turns = [
            prompt_of("", question.text).strip() + f" {question.answer} {STOP}" for question in questions
        ]
        yield {"text": " </s> ".join([f"{scene.context} {turns[0]}", *turns[1:]])}


def contents() -> dict[Path, str]:
    """Return every generated file with its text: samples, calibration texts, and the digests of both."""
    files = {
        task_type.folder / f"{form}.jsonl": _lines(test_samples(task_type, form=form))
        for task_type in TASK_TYPES.values()
        for form in FORMS
    }
    files[CALIBRATION_FILE] = _lines(calibration_texts())
    digests = {
        path.relative_to(TASKS_FOLDER).as_posix(): sha256(text.encode()).hexdigest()
        for path, text in files.items()
    }
    return {**files, DIGESTS_FILE: json.dumps(digests, indent=2) + "\n"}


def main() -> int:
    """Write the files, or say which differ; the exit status is 1 if any does."""
    parser = ArgumentParser(prog="python -m evals.tasks.generate", description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the files")
    action.add_argument("--check", action="store_true", help="compare the files with what would be written")
    write: bool = parser.parse_args().write
    stale = [path for path, text in contents().items() if not path.exists() or path.read_text() != text]
    for path in stale:
        sys.stderr.write(f"{'written' if write else 'differs'}: {path}\n")
    if not write:
        return 1 if stale else 0
    for path, text in contents().items():
        path.write_text(text)
    return 0


def _lines(samples: Iterator[Sample]) -> str:
    return "".join(json.dumps(sample, separators=(",", ":")) + "\n" for sample in samples)


if __name__ == "__main__":
    sys.exit(main())
