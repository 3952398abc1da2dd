"""The reference stage: a checkpoint's scorecards in torch, which every artifact is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.stages.evaluate import TaskRequest
from registry.artifact import ModelFacts
from registry.checkpoint import Checkpoint
from registry.digest import Digest
from registry.ladder import EvaluationEntry
from registry.value import Value


class ReferenceOutput(Value):
    """A checkpoint's own outcomes in torch on one task type."""

    scorecard: Digest
    accuracy: float
    samples: int


class ReferenceRequest(Value):
    """Checkpoint → its own scorecards, in torch."""

    kind: Literal["reference"] = "reference"
    probe_key: Digest | None
    """None: already known."""
    checkpoint: Checkpoint
    facts: ModelFacts
    calibration: Path | None
    ladder_directory: Path
    evaluation: EvaluationEntry
    tasks: tuple[TaskRequest, ...]
