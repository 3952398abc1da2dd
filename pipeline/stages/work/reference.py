"""Checkpoint → its own scorecard of a task type, in torch: what every artifact is compared with."""

from __future__ import annotations

from compilers.installed import required_version
from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from evals.harness import evaluate, load_tasks, scorecard
from pipeline.stages.context import WorkerContext
from pipeline.stages.reference import ReferenceOutput, ReferenceRequest
from pipeline.stages.task import TaskRequest
from registry.digest import canonical_json
from serving.node.processor import processor_name


def evaluate_checkpoint(
    session: TorchSession,
    tokenizer: Tokenizer,
    task: TaskRequest,
    *,
    request: ReferenceRequest,
    context: WorkerContext,
) -> ReferenceOutput:
    """Evaluate a checkpoint on one task type and put its scorecard into the store.

    Raises:
        EvaluationError: The task cannot run.
    """
    settings = request.evaluation
    loaded = load_tasks(
        task.task_type,
        task.entry,
        ladder_dir=request.ladder_directory,
        cache_dir=context.scratch / "datasets",
        code=task.code,
    )
    measured = evaluate(
        session,
        tokenizer,
        loaded,
        batch_size=settings.batch_size,
        order_seed=settings.seed,
        chunk=settings.chunk,
        progress=lambda done, total: context.report.progress(f"{task.task_type} {done}/{total}"),
        max_samples=task.entry.max_samples,
    )
    card = scorecard(
        measured,
        subject=request.checkpoint.digest,
        runtime="torch",
        runtime_version=required_version("torch", extra="build"),
        chip=processor_name(),
    )
    return ReferenceOutput(
        scorecard=context.store.add_bytes(canonical_json(card)).digest,
        accuracy=card.accuracy,
        samples=len(card.outcomes),
    )
