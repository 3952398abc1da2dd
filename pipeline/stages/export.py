"""The export stage: checkpoint → ONNX interchange graph."""

from __future__ import annotations

from typing import ClassVar, Literal

from pipeline.stages.stage import Stage, StageKey
from registry.artifact import ModelFacts
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import Digest, digest_tree
from registry.value import Value


class ExportOutput(Value):
    """The interchange graph of an architecture."""

    graph: FileEntry
    facts: ModelFacts


class ExportRequest(Value):
    """Checkpoint → graph."""

    work: ClassVar = "pipeline.stages.work.export:export"
    kind: Literal["export"] = "export"
    key: Digest
    checkpoint: Checkpoint


EXPORT = Stage("export", work=ExportRequest.work, output=ExportOutput)


def export_key(checkpoint: Checkpoint) -> StageKey[ExportOutput]:
    """The key of an export: the configuration and tokenizer files, never the weights."""
    small = {f.path: f.digest for f in checkpoint.files if not f.path.endswith(".safetensors")}
    return EXPORT.key(files=digest_tree(small), add_bos=checkpoint.add_bos)
