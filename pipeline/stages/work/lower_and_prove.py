"""The work of a lower request: compile, then open what was made, while the files are on disk."""

from __future__ import annotations

import time
from pathlib import Path

from pipeline.stages.context import WorkerContext
from pipeline.stages.lower import LOWER, LowerOutput, LowerRequest
from pipeline.stages.prove import PROVE, prove_key
from pipeline.stages.work.lower import lower
from pipeline.stages.work.prove import prove_files
from registry.target import find_target


def lower_and_prove(request: LowerRequest, context: WorkerContext) -> None:
    """Compile, then prove; each output is reported as soon as it is there.

    Raises:
        BuildError: The compiler failed.
        ToolchainMissingError: Something it needs is not installed.
    """
    out = context.scratch / "out"
    lowered = _lowered(request, context, out=out)
    start = time.monotonic()
    proven = prove_files(
        out,
        files=tuple(entry.path for entry in lowered.files),
        entry=lowered.entry,
        options=lowered.options,
        target=request.target,
        toolchain=request.toolchain,
    )
    key = prove_key(
        lowered=lowered.model_dump(mode="json", exclude={"log"}),
        target=find_target(request.target),
        toolchain=request.toolchain,
        code=request.prove_code,
    )
    context.report.output(key.digest, proven, stage=PROVE.name, seconds=time.monotonic() - start)


def _lowered(request: LowerRequest, context: WorkerContext, *, out: Path) -> LowerOutput:
    if request.done is not None:
        context.store.materialise(request.done.files, out=out)
        return request.done
    start = time.monotonic()
    out.mkdir()
    lowered = lower(request, context, out=out)
    context.report.output(request.key, lowered, stage=LOWER.name, seconds=time.monotonic() - start)
    return lowered
