"""Variant × target → compiled files by one toolchain."""

from __future__ import annotations

import sys
from pathlib import Path

from compilers.backend import find_toolchain
from compilers.toolchain import LoweringInput
from pipeline.stages.context import WorkerContext
from pipeline.stages.lower import LowerOutput, LowerRequest
from pipeline.stages.work.files import add_entry
from registry.target import find_target


def lower(request: LowerRequest, context: WorkerContext, *, out: Path) -> LowerOutput:
    """Compile into the empty directory `out`, and put the files and the log into the store.

    Raises:
        BuildError: The compiler failed.
        ToolchainMissingError: Something it needs is not installed.
    """
    variant, store = request.variant, context.store
    given = context.scratch / "source"
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
    return LowerOutput(
        entry=lowered.entry,
        files=tuple(add_entry(store, out / name, name=name) for name in lowered.files),
        options=dict(lowered.options),
        log=store.add_file(context.log).digest,
    )
