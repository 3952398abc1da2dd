"""Checkpoint → interchange graph."""

from __future__ import annotations

import json
import time
from pathlib import Path

from compilers.export.graph import export_graph
from compilers.model.architecture import model_facts, read_architecture
from pipeline.stages.export import ExportOutput, ExportRequest
from pipeline.stages.reporter import Reporter
from pipeline.stages.work.files import add_entry, materialise_small
from registry.store import Store


def export(request: ExportRequest, *, store: Store, scratch: Path, report: Reporter) -> None:
    """Emit the graph of the checkpoint's architecture.

    Raises:
        CheckpointError: The architecture or an option of it is not supported.
    """
    start = time.monotonic()
    checkpoint = request.checkpoint
    directory = materialise_small(checkpoint, store=store, out=scratch / "checkpoint")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    architecture = read_architecture(config, where=checkpoint.ref)
    graph = export_graph(architecture, out=scratch)
    output = ExportOutput(
        graph=add_entry(store, graph, name="model.onnx"),
        facts=model_facts(architecture, directory=directory, add_bos=checkpoint.add_bos),
    )
    report.output(request.key, output, stage="export", seconds=time.monotonic() - start)
