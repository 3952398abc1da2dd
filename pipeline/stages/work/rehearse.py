"""Artifact → parity where something else runs it in its target's place (`compilers/rehearsal.py`)."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from compilers.backend import rehearse as open_rehearsal
from compilers.check.measure import measure_parity
from compilers.runtime import Bundle
from compilers.toolchain import Unsupported
from matrices.cells.measurement import Measurement
from pipeline.stages.context import WorkerContext
from pipeline.stages.rehearse import REHEARSE, RehearseOutput, RehearseRequest
from pipeline.stages.work.files import materialise_bundle
from pipeline.stages.work.probe import load_error, load_probe


def rehearse(request: RehearseRequest, context: WorkerContext) -> None:
    """Run the probe by other means than the target, and measure how close it is.

    Raises:
        LoadError: The means are here and the artifact does not run.
    """
    start = time.monotonic()
    manifest, store = request.manifest, context.store
    path = materialise_bundle(manifest, store=store, out=context.scratch / "bundle")
    opened = open_rehearsal(Bundle(manifest=manifest, path=path))
    if isinstance(opened, Unsupported):
        output = RehearseOutput(parity=None, means=opened.reason)
    else:
        sequences, variant_logits = load_probe(store, request.variant_probe)
        _, checkpoint_logits = load_probe(store, request.checkpoint_probe)
        parity = measure_parity(
            opened.session,
            probe=sequences,
            variant_logits=variant_logits,
            checkpoint_logits=checkpoint_logits,
            error=load_error(store, request.checkpoint_probe),
            recipe=request.recipe,
            toolchain=manifest.toolchain,
        )
        measurement = Measurement(
            runtime=manifest.format,
            runtime_version=opened.runtime_version,
            chip=opened.means,
            via="emulator",
            at=datetime.now(UTC),
        )
        output = RehearseOutput(parity=parity, means=opened.means, measurement=measurement)
    context.report.output(request.key, output, stage=REHEARSE.name, seconds=time.monotonic() - start)
