"""The work of a recheck request: mark scorecards again, and run some of their samples again."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping

from evals.harness import take_samples
from evals.loading import load_tasks
from evals.recheck import chosen_samples, marking_problems, rerun_problems
from evals.samples import LoadedTasks
from pipeline.stages.context import WorkerContext
from pipeline.stages.recheck import RECHECK, RecheckOutput, RecheckRequest, RecheckSubject
from pipeline.stages.work.artifact import load_artifact
from registry.errors import EvaluationError


def recheck(request: RecheckRequest, context: WorkerContext) -> None:
    """Check the scorecards of each artifact; one output for each.

    Raises:
        LoadError: An artifact does not load here.
        EvaluationError: A task cannot be loaded.
    """
    wanted = {card.task_type for subject in request.subjects for card in subject.scorecards}
    loaded = {
        task.task_type: load_tasks(
            task.task_type,
            task.entry,
            ladder_dir=request.ladder_directory,
            cache_dir=context.scratch / "datasets",
            code=task.code,
        )
        for task in request.tasks
        if task.task_type in wanted
    }
    for number, subject in enumerate(request.subjects, start=1):
        start = time.monotonic()
        context.report.progress(f"{number}/{len(request.subjects)}")
        found = _problems(subject, request, loaded)
        rerun = 0
        if not found and subject.manifest is not None:
            found, rerun = _run_again(subject, request, loaded, context=context)
        output = RecheckOutput(problems=tuple(found), rerun=rerun)
        context.report.output(subject.key, output, stage=RECHECK, seconds=time.monotonic() - start)


def _problems(
    subject: RecheckSubject, request: RecheckRequest, loaded: Mapping[str, LoadedTasks]
) -> list[str]:
    found = []
    for card in subject.scorecards:
        try:
            wrong = marking_problems(card, loaded[card.task_type], order_seed=request.evaluation.seed)
        except EvaluationError as error:
            wrong = [error.message]
        found += [f"{card.task_type}: {why}" for why in wrong]
    return found


def _run_again(
    subject: RecheckSubject,
    request: RecheckRequest,
    loaded: Mapping[str, LoadedTasks],
    *,
    context: WorkerContext,
) -> tuple[list[str], int]:
    """What a second run contradicts, and how many samples it took."""
    if subject.manifest is None:
        return [], 0
    artifact = load_artifact(subject.manifest, context)
    found, count = [], 0
    for card in subject.scorecards:
        tasks = loaded[card.task_type]
        secret = f"{request.secret}/{card.subject}/{card.task_type}"
        samples = chosen_samples(card, tasks, secret=secret)
        taken = take_samples(
            artifact.session, artifact.tokenizer, tasks, samples, batch_size=request.evaluation.batch_size
        )
        count += len(taken)
        found += [f"{card.task_type}: {why}" for why in rerun_problems(card, taken)]
    shutil.rmtree(context.scratch / "bundle")  # the next artifact's takes its place
    return found, count
