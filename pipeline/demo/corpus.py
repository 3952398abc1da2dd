"""What the demo family is trained on: documents of one context with several questions, each with its answer.

Contexts come from the agent tasks' own sources and always belong to their train split.
Only answers are learned.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from evals.tasks.catalog import FORMS, TASK_TYPES
from evals.tasks.draw import Draw
from evals.tasks.scene import draw_scene
from evals.tasks.words import CITIES, COLOURS, DAYS, FIELDS, NAMES, NUMBERS, STOP, THINGS
from pipeline.demo.tokenizer import BOS, EOS, PAD, word_ids

_IDS: Final = word_ids()
_QUESTIONS: Final = 10
_WIDE_KEYS: Final = (*NAMES, *THINGS, *COLOURS, *FIELDS)
_WIDE_VALUES: Final = (*NAMES, *THINGS, *COLOURS, *CITIES, *DAYS, *NUMBERS)
_WIDE_PAIRS: Final = 14
IGNORED: Final = -100
"""The label that `cross_entropy` leaves out."""


@dataclass(frozen=True, slots=True)
class TrainingDocument:
    """Words to read and, for each, whether it is to be learned."""

    words: tuple[str, ...]
    learned: tuple[bool, ...]
    kind: int
    """The task type's place in the catalog; one more than the last for a warm-up look-up."""


@dataclass(frozen=True, slots=True)
class TrainingBatch:
    """Documents as tensors: rows × words; `targets` are shifted by one, with unlearned places ignored."""

    inputs: torch.Tensor
    targets: torch.Tensor
    kinds: torch.Tensor


def task_document(draw: Draw, *, kind: int) -> TrainingDocument:
    """Draw a document of one task type, in the train split."""
    task_type = tuple(TASK_TYPES.values())[kind]
    scene = draw_scene(task_type.source, draw, split="train")
    words, learned = _open(scene.context)
    for _ in range(_QUESTIONS):
        question = scene.ask(draw, draw.pick(FORMS))
        asked = question.text.split()
        answered = f"{question.answer} {STOP} {EOS}".split()
        words += asked + answered
        learned += [False] * len(asked) + [True] * len(answered)
    return TrainingDocument(tuple(words), tuple(learned), kind)


def look_up_document(draw: Draw, *, pairs: int) -> TrainingDocument:
    """Draw pairs of words and then ask for them in another order: the first thing a checkpoint learns."""
    keys = draw.sample(THINGS, count=pairs)
    values = {key: draw.pick(NUMBERS) for key in keys}
    words, learned = _open(" ".join(f"{key} {value}" for key, value in values.items()))
    for key in draw.shuffle(keys):
        words += [key, values[key]]
        learned += [False, True]
    return TrainingDocument(tuple(words), tuple(learned), len(TASK_TYPES))


def wide_look_up_document(draw: Draw) -> TrainingDocument:
    """Draw pairs of words of all kinds and then ask for them in another order, in the form of the tasks."""
    keys = draw.sample(_WIDE_KEYS, count=_WIDE_PAIRS)
    values = draw.sample([word for word in _WIDE_VALUES if word not in keys], count=_WIDE_PAIRS)
    pairs = list(zip(keys, values, strict=True))
    words, learned = _open(" ; ".join(f"{key} {value}" for key, value in pairs) + f" {STOP}")
    for key, value in draw.shuffle(pairs):
        words += [key, value, STOP, EOS]
        learned += [False, True, False, False]
    return TrainingDocument(tuple(words), tuple(learned), len(TASK_TYPES))


def collate(documents: Sequence[TrainingDocument]) -> TrainingBatch:
    """Stack documents, padded on the right."""
    width = max(len(document.words) for document in documents)
    rows = torch.full((len(documents), width), _IDS[PAD])
    learned = torch.zeros((len(documents), width), dtype=torch.bool)
    for place, document in enumerate(documents):
        rows[place, : len(document.words)] = torch.tensor([_IDS[word] for word in document.words])
        learned[place, : len(document.words)] = torch.tensor(document.learned)
    targets = rows[:, 1:].masked_fill(~learned[:, 1:], IGNORED)
    return TrainingBatch(rows[:, :-1], targets, torch.tensor([document.kind for document in documents]))


def _open(context: str) -> tuple[list[str], list[bool]]:
    words = [BOS, *context.split()]
    return words, [False] * len(words)
