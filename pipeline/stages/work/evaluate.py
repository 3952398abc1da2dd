"""Artifact → its scorecard of a task type, judged against every tier."""

from __future__ import annotations

from pathlib import Path

from evals.harness import evaluate, load_tasks, scorecard
from evals.judge import SequentialJudge
from evals.scorecard import Scorecard
from matrices.cells.steps import task_result
from pipeline.stages.context import WorkerContext
from pipeline.stages.evaluate import EvaluateOutput
from pipeline.stages.task import TaskRequest
from pipeline.stages.work.artifact import LoadedArtifact
from registry.digest import canonical_json
from registry.ladder import EvaluationEntry


def evaluate_task(
    artifact: LoadedArtifact,
    task: TaskRequest,
    *,
    settings: EvaluationEntry,
    ladder_directory: Path,
    context: WorkerContext,
) -> EvaluateOutput:
    """Evaluate an artifact on one task type until every tier's verdict is certain.

    Raises:
        EvaluationError: The task cannot run.
    """
    store = context.store
    references = {
        bar.tier: Scorecard.model_validate_json(store.read_bytes(digest))
        for bar, digest in zip(task.bars, task.references, strict=True)
    }
    loaded = load_tasks(
        task.task_type,
        task.entry,
        ladder_dir=ladder_directory,
        cache_dir=context.scratch / "datasets",
        code=task.code,
    )
    measured = evaluate(
        artifact.session,
        artifact.tokenizer,
        loaded,
        batch_size=settings.batch_size,
        order_seed=settings.seed,
        chunk=settings.chunk,
        until=SequentialJudge(references=references, bars=task.bars),
        progress=lambda done, total: context.report.progress(f"{task.task_type} {done}/{total}"),
        max_samples=task.entry.max_samples,
    )
    card = scorecard(
        measured,
        subject=artifact.manifest.digest,
        runtime=artifact.manifest.format,
        runtime_version=artifact.runtime_version,
        chip=artifact.chip.name,
    )
    store.add_bytes(canonical_json(card))
    result = task_result(card, references=references, bars=task.bars)
    return EvaluateOutput(
        result=result,
        measurement=artifact.measurement(),
    )
