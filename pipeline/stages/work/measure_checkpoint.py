"""The work of a reference request: a checkpoint's probe and scorecards, from one load of it."""

from __future__ import annotations

import time

from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from pipeline.stages.checkpoint_probe import PROBE
from pipeline.stages.context import WorkerContext
from pipeline.stages.reference import REFERENCE, ReferenceRequest
from pipeline.stages.work.checkpoint_probe import probe_checkpoint
from pipeline.stages.work.failed_tasks import FailedTasks
from pipeline.stages.work.files import materialise_checkpoint
from pipeline.stages.work.reference import evaluate_checkpoint


def measure_checkpoint(request: ReferenceRequest, context: WorkerContext) -> None:
    """Probe and evaluate the checkpoint in torch; each output is reported as soon as it is there.

    Raises:
        EvaluationError: Tasks cannot run; those that can have been reported before.
    """
    checkpoint, report = request.checkpoint, context.report
    directory = materialise_checkpoint(checkpoint, store=context.store, out=context.scratch / "checkpoint")
    tokenizer = Tokenizer.from_directory(directory, add_bos=checkpoint.add_bos)
    session = TorchSession(directory)
    if request.probe_key is not None:
        start = time.monotonic()
        probe = probe_checkpoint(
            session,
            tokenizer,
            calibration=request.calibration,
            facts=request.facts,
            store=context.store,
        )
        report.output(request.probe_key, probe, stage=PROBE.name, seconds=time.monotonic() - start)
    failed = FailedTasks()
    for task in request.tasks:
        start = time.monotonic()
        with failed.noted(task.task_type):
            output = evaluate_checkpoint(session, tokenizer, task, request=request, context=context)
        if failed.has(task.task_type):
            continue
        report.output(task.key, output, stage=REFERENCE.name, seconds=time.monotonic() - start)
    failed.raise_any()
