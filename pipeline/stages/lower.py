"""Variant × target → compiled files, by one toolchain."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from compilers.toolchain import Source, find_toolchain
from pipeline.executors.local import LOG_NAME
from pipeline.requests import LowerOutput, LowerRequest
from pipeline.stages.files import add_entry
from pipeline.worker import Reporter
from registry.store import Store
from registry.target import find_target


def lower(request: LowerRequest, *, store: Store, scratch: Path, report: Reporter) -> None:
    """Compile.

    Raises:
        BuildError: The compiler failed.
        ToolchainMissingError: Something it needs is not installed.
    """
    start = time.monotonic()
    variant = request.variant
    given = scratch / "source"
    store.materialise((variant.graph, variant.weights), out=given)
    source = Source(
        recipe=variant.recipe,
        facts=request.facts,
        graph=given / variant.graph.path,
        weights=given / variant.weights.path,
    )
    out = scratch / "out"
    out.mkdir()
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
