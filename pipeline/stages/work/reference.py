"""Checkpoint → its own probe and scorecards, in torch: what every artifact is held against."""

from __future__ import annotations

import time
from pathlib import Path

from compilers.check.probe import make_probe, reference_logits
from compilers.model.tokenizer import Tokenizer
from compilers.model.torch_reference import TorchSession
from evals.harness import evaluate, load_tasks, scorecard
from pipeline.stages.evaluate import TaskRequest
from pipeline.stages.keys import version
from pipeline.stages.reference import ReferenceOutput, ReferenceRequest
from pipeline.stages.reporter import Reporter
from pipeline.stages.work.files import materialise_checkpoint
from pipeline.stages.work.probe import read_texts, store_probe, tokenize
from registry.digest import canonical_json
from registry.store import Store
from serving.node.host import this_host


def reference(request: ReferenceRequest, *, store: Store, scratch: Path, report: Reporter) -> None:
    """Probe and evaluate the checkpoint in torch; each output is reported as soon as it is there.

    Raises:
        EvaluationError: A task cannot run.
    """
    checkpoint = request.checkpoint
    directory = materialise_checkpoint(checkpoint, store=store, out=scratch / "checkpoint")
    tokenizer = Tokenizer.from_directory(directory, add_bos=checkpoint.add_bos)
    session = TorchSession(directory)
    if request.probe_key is not None:
        start = time.monotonic()
        texts = tokenize(read_texts(request.calibration), tokenizer, longest=request.facts.max_context)
        sequences = make_probe(
            texts, vocab_size=request.facts.vocab_size, max_context=request.facts.max_context
        )
        output = store_probe(store, sequences, reference_logits(session, sequences))
        report.output(request.probe_key, output, stage="probe", seconds=time.monotonic() - start)
    for task in request.tasks:
        _evaluate(
            request, task, session=session, tokenizer=tokenizer, store=store, scratch=scratch, report=report
        )


def _evaluate(
    request: ReferenceRequest,
    task: TaskRequest,
    *,
    session: TorchSession,
    tokenizer: Tokenizer,
    store: Store,
    scratch: Path,
    report: Reporter,
) -> None:
    start = time.monotonic()
    settings = request.evaluation
    loaded = load_tasks(
        task.task_type, task.entry, ladder_dir=request.ladder_directory, cache_dir=scratch / "datasets"
    )
    measured = evaluate(
        session,
        tokenizer,
        loaded,
        batch_size=settings.batch_size,
        order_seed=settings.seed,
        chunk=settings.chunk,
        progress=lambda done, total: report.progress(f"{task.task_type} {done}/{total}"),
        max_samples=task.entry.max_samples,
    )
    card = scorecard(
        measured,
        subject=request.checkpoint.digest,
        runtime="torch",
        runtime_version=version("torch"),
        chip=this_host().chip,
    )
    output = ReferenceOutput(
        scorecard=store.add_bytes(canonical_json(card)).digest,
        accuracy=card.accuracy,
        samples=len(card.outcomes),
    )
    report.output(task.key, output, stage="reference", seconds=time.monotonic() - start)
