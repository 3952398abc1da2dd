"""The export stage: checkpoint → ONNX interchange graph."""

from __future__ import annotations

from typing import Literal

from registry.artifact import ModelFacts
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import Digest
from registry.value import Value


class ExportOutput(Value):
    """The interchange graph of an architecture."""

    graph: FileEntry
    facts: ModelFacts


class ExportRequest(Value):
    """Checkpoint → graph."""

    kind: Literal["export"] = "export"
    key: Digest
    checkpoint: Checkpoint
