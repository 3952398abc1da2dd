"""The work of an examine request: an artifact's parity, speed and scorecards, from one load of it."""

from __future__ import annotations

import time

from pipeline.stages.context import WorkerContext
from pipeline.stages.evaluate import EVALUATE, OUTCOMES
from pipeline.stages.examine import ExamineRequest
from pipeline.stages.speed import SPEED
from pipeline.stages.verify import VERIFY
from pipeline.stages.work.artifact import load_artifact
from pipeline.stages.work.evaluate import evaluate_task
from pipeline.stages.work.failed_tasks import FailedTasks
from pipeline.stages.work.speed import time_artifact
from pipeline.stages.work.verify import verify


def examine(request: ExamineRequest, context: WorkerContext) -> None:
    """Load, verify, time and evaluate; each output is reported as soon as it is there.

    Raises:
        LoadError: It does not load here.
        EvaluationError: Tasks cannot run; those that can have been reported before.
    """
    report = context.report
    artifact = load_artifact(request.manifest, context)
    if request.verify_key is not None:
        start = time.monotonic()
        verified = verify(
            artifact,
            recipe=request.recipe,
            variant=request.variant_probe,
            checkpoint=request.checkpoint_probe,
            store=context.store,
        )
        report.output(request.verify_key, verified, stage=VERIFY.name, seconds=time.monotonic() - start)
    if request.speed is not None:
        start = time.monotonic()
        report.progress("timing")
        timed = time_artifact(artifact, request.speed, threads=context.threads)
        report.output(request.speed.key, timed, stage=SPEED.name, seconds=time.monotonic() - start)
    failed = FailedTasks()
    for task in request.tasks:
        start = time.monotonic()
        with failed.noted(task.task_type):
            evaluated = evaluate_task(
                artifact,
                task,
                settings=request.evaluation,
                ladder_directory=request.ladder_directory,
                context=context,
            )
        if failed.has(task.task_type):
            continue
        seconds = time.monotonic() - start
        report.output(task.key, evaluated, stage=EVALUATE.name, seconds=seconds)
        if task.outcomes_key is not None:
            report.output(task.outcomes_key, evaluated, stage=OUTCOMES.name, seconds=seconds)
    failed.raise_any()
