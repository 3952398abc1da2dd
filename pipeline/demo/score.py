"""Scores a checkpoint of the demo family through lm-eval's own `hf` backend, for its training record."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from evals.tasks.catalog import FORMS, METRICS, TASK_TYPES, TASKS_FOLDER, TaskType
from evals.tasks.scene import Form

BATCH_SIZE: Final = 32


def score_checkpoint(
    folder: Path, *, task_types: tuple[str, ...] = tuple(TASK_TYPES), limit: int | None = None
) -> Mapping[str, Mapping[str, float]]:
    """Return the score of each task type and of its two forms, from 0 to 1.

    Args:
        folder: A checkpoint in the Hugging Face layout.
        task_types: What to score.
        limit: The first so many samples of each task; all of them if None.

    Returns:
        For each task type `choice`, `generate` and their `mean`.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    from lm_eval import evaluator
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(TASKS_FOLDER), include_defaults=False)
    groups = [TASK_TYPES[name] for name in task_types]
    tasks = manager.load([_configuration(group, form) for group in groups for form in FORMS])["tasks"]
    judged = HFLM(
        pretrained=str(folder),
        device="cpu",
        dtype="float32",
        batch_size=BATCH_SIZE,
        add_bos_token=True,
    )
    results = evaluator.evaluate(judged, tasks, limit=limit, bootstrap_iters=0)["results"]
    scores: dict[str, dict[str, float]] = {}
    for group in groups:
        parts: dict[str, float] = {
            form: float(results[group.task(form)][f"{METRICS[form]},none"]) for form in FORMS
        }
        scores[group.name] = {**parts, "mean": sum(parts.values()) / len(parts)}
    return scores


def _configuration(task_type: TaskType, form: Form) -> dict[str, Any]:  # as lm-eval takes it, untyped
    """Read a task's YAML, with its data file named by an absolute path."""
    configuration: dict[str, Any] = yaml.safe_load((task_type.folder / f"{form}.yaml").read_text())
    files: dict[str, str] = configuration["dataset_kwargs"]["data_files"]
    files.update({split: str(task_type.folder / name) for split, name in files.items()})
    return configuration
