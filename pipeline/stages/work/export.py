"""Checkpoint → interchange graph."""

from __future__ import annotations

import json
import time

from compilers.export.graph import export_graph
from compilers.model.architecture import model_facts, read_architecture
from pipeline.stages.context import WorkerContext
from pipeline.stages.export import EXPORT, ExportOutput, ExportRequest
from pipeline.stages.work.files import add_entry, materialise_small


def export(request: ExportRequest, context: WorkerContext) -> None:
    """Emit the graph of the checkpoint's architecture.

    Raises:
        CheckpointError: The architecture or an option of it is not supported.
    """
    start = time.monotonic()
    checkpoint, store = request.checkpoint, context.store
    directory = materialise_small(checkpoint, store=store, out=context.scratch / "checkpoint")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    architecture = read_architecture(config, where=checkpoint.ref)
    graph = export_graph(architecture, out=context.scratch)
    output = ExportOutput(
        graph=add_entry(store, graph, name="model.onnx"),
        facts=model_facts(architecture, directory=directory, add_bos=checkpoint.add_bos),
    )
    context.report.output(request.key, output, stage=EXPORT.name, seconds=time.monotonic() - start)
