"""Artifact → parity and scorecards: loaded once, exactly as a node would load it, from a verified bundle."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from compilers.backend import find_runtime
from compilers.check.parity import Parity
from compilers.check.probe import measure_parity
from compilers.check.speed import measure_machine, measure_speed
from compilers.model.tokenizer import Tokenizer
from compilers.runtime import Bundle, Session
from evals.harness import evaluate, load_tasks, scorecard
from evals.judge import SequentialJudge
from evals.scorecard import Scorecard
from matrices.cells.cell import TaskResult
from matrices.cells.measurement import Measurement
from matrices.cells.steps import task_result
from pipeline.stages.evaluate import EvaluateOutput, TaskRequest
from pipeline.stages.examine import ExamineRequest
from pipeline.stages.reporter import Reporter
from pipeline.stages.speed import SpeedOutput
from pipeline.stages.verify import VerifyOutput
from pipeline.stages.work.files import materialise_bundle
from pipeline.stages.work.probe import load_probe
from registry.digest import canonical_json
from registry.store import Store
from registry.target import find_target
from serving.node.accelerator import ChipHere, chip_here
from serving.node.host import this_host


@dataclass(frozen=True, slots=True)
class _Subject:
    """The loaded artifact and where its evidence comes from."""

    request: ExamineRequest
    session: Session
    tokenizer: Tokenizer
    runtime_version: str
    chip: ChipHere
    threads: int
    store: Store
    scratch: Path

    def measurement(self) -> Measurement:
        """What something was measured on, just now."""
        return self.chip.measurement(
            runtime=self.request.manifest.format, runtime_version=self.runtime_version
        )


def examine(request: ExamineRequest, *, store: Store, scratch: Path, report: Reporter, threads: int) -> None:
    """Load, verify and evaluate; each output is reported as soon as it is there.

    Raises:
        LoadError: It does not load here.
        EvaluationError: A task cannot run.
    """
    manifest = request.manifest
    host = this_host()
    target = find_target(manifest.target)
    runtime = find_runtime(manifest.format)
    bundle = Bundle(manifest=manifest, path=materialise_bundle(manifest, store=store, out=scratch / "bundle"))
    subject = _Subject(
        request=request,
        session=runtime.load(bundle, host, threads=threads),
        tokenizer=Tokenizer.from_directory(
            bundle.path, add_bos=manifest.facts.add_bos, eos_token_ids=manifest.facts.eos_token_ids
        ),
        runtime_version=runtime.version(),
        chip=chip_here(target, host),
        threads=threads,
        store=store,
        scratch=scratch,
    )
    if request.verify_key is not None:
        start = time.monotonic()
        output = VerifyOutput(parity=_parity(subject), measurement=subject.measurement())
        report.output(request.verify_key, output, stage="verify", seconds=time.monotonic() - start)
    if request.speed is not None:
        start = time.monotonic()
        report.progress("timing")
        timed = _time(subject, is_processor=target.kind == "cpu")
        report.output(request.speed.key, timed, stage="speed", seconds=time.monotonic() - start)
    for task in request.tasks:
        start = time.monotonic()
        result = _evaluate(subject, task, report=report)
        evaluated = EvaluateOutput(result=result, measurement=subject.measurement())
        report.output(task.key, evaluated, stage="evaluate", seconds=time.monotonic() - start)


def _parity(subject: _Subject) -> Parity:
    request = subject.request
    sequences, variant_logits = load_probe(subject.store, request.variant_probe)
    _, checkpoint_logits = load_probe(subject.store, request.checkpoint_probe)
    return measure_parity(
        subject.session,
        probe=sequences,
        variant_logits=variant_logits,
        checkpoint_logits=checkpoint_logits,
        recipe=request.recipe,
        toolchain=request.manifest.toolchain,
    )


def _time(subject: _Subject, *, is_processor: bool) -> SpeedOutput:
    """Raises LoadError where the artifact's context is too short to be timed."""
    asked = subject.request.speed
    if asked is None:
        raise RuntimeError("a speed was measured that nobody asked for")
    speed = measure_speed(
        subject.session,
        prompt_tokens=asked.prompt_tokens,
        decode_steps=asked.decode_steps,
        repeats=asked.repeats,
        threads=subject.threads,
        machine=measure_machine(threads=subject.threads) if is_processor else None,
    )
    return SpeedOutput(speed=speed, measurement=subject.measurement())


def _evaluate(subject: _Subject, task: TaskRequest, *, report: Reporter) -> TaskResult:
    settings = subject.request.evaluation
    references = {
        bar.tier: Scorecard.model_validate_json(subject.store.read_bytes(digest))
        for bar, digest in zip(task.bars, task.references, strict=True)
    }
    loaded = load_tasks(
        task.task_type,
        task.entry,
        ladder_dir=subject.request.ladder_directory,
        cache_dir=subject.scratch / "datasets",
    )
    measured = evaluate(
        subject.session,
        subject.tokenizer,
        loaded,
        batch_size=settings.batch_size,
        order_seed=settings.seed,
        chunk=settings.chunk,
        until=SequentialJudge(references=references, bars=task.bars),
        progress=lambda done, total: report.progress(f"{task.task_type} {done}/{total}"),
        max_samples=task.entry.max_samples,
    )
    card = scorecard(
        measured,
        subject=subject.request.manifest.digest,
        runtime=subject.request.manifest.format,
        runtime_version=subject.runtime_version,
        chip=subject.chip.name,
    )
    subject.store.add_bytes(canonical_json(card))
    return task_result(card, references=references, bars=task.bars)
