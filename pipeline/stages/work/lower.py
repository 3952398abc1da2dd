"""Variant × target → compiled files by one toolchain, and the proof of what they hold."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from compilers.backend import find_toolchain
from compilers.proof.prove import prove
from compilers.toolchain import LoweringInput
from pipeline.stages.keys import prove_key
from pipeline.stages.lower import LowerOutput, LowerRequest
from pipeline.stages.order import LOG_NAME
from pipeline.stages.prove import ProveOutput
from pipeline.stages.reporter import Reporter
from pipeline.stages.work.files import add_entry
from registry.store import Store
from registry.target import find_target


def lower(request: LowerRequest, *, store: Store, scratch: Path, report: Reporter) -> None:
    """Compile, then open what was made.

    Raises:
        BuildError: The compiler failed.
        ToolchainMissingError: Something it needs is not installed.
    """
    out = scratch / "out"
    out.mkdir()
    if request.done is None:
        lowered = _compile(request, store=store, scratch=scratch, out=out, report=report)
    else:
        lowered = request.done
        out.rmdir()
        store.materialise(lowered.files, out=out)
    _prove(request, lowered, out=out, report=report)


def _compile(
    request: LowerRequest, *, store: Store, scratch: Path, out: Path, report: Reporter
) -> LowerOutput:
    start = time.monotonic()
    variant = request.variant
    given = scratch / "source"
    store.materialise((variant.graph, variant.weights), out=given)
    source = LoweringInput(
        recipe=variant.recipe,
        facts=request.facts,
        graph=given / variant.graph.path,
        weights=given / variant.weights.path,
    )
    lowered = find_toolchain(request.toolchain).lower(source, find_target(request.target), out=out)
    sys.stdout.flush()
    sys.stderr.flush()
    output = LowerOutput(
        entry=lowered.entry,
        files=tuple(add_entry(store, out / name, name=name) for name in lowered.files),
        options=dict(lowered.options),
        log=store.add_file(scratch / LOG_NAME).digest,
    )
    report.output(request.key, output, stage="lower", seconds=time.monotonic() - start)
    return output


def _prove(request: LowerRequest, lowered: LowerOutput, *, out: Path, report: Reporter) -> None:
    start = time.monotonic()
    target, toolchain = find_target(request.target), find_toolchain(request.toolchain)
    proof = prove(
        out,
        files=tuple(entry.path for entry in lowered.files),
        entry=lowered.entry,
        format=toolchain.produces,
        toolchain=request.toolchain,
        target=target,
        options=lowered.options,
    )
    key = prove_key(
        lowered=lowered.model_dump(mode="json", exclude={"log"}), target=target, toolchain=request.toolchain
    )
    report.output(key, ProveOutput(proof=proof), stage="prove", seconds=time.monotonic() - start)
