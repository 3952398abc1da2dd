"""The request to examine an artifact: verify, time and evaluate it in one process that loads it once."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pipeline.stages.probe import ProbeOutput
from pipeline.stages.speed import SpeedRequest
from pipeline.stages.task import TaskRequest
from registry.artifact import Manifest
from registry.digest import Digest
from registry.ladder import EvaluationEntry
from registry.recipe import Recipe
from registry.value import Value


class ExamineRequest(Value):
    """Artifact → parity and scorecards, in one process that loads it once."""

    work: ClassVar = "pipeline.stages.work.examine:examine"
    kind: Literal["examine"] = "examine"
    verify_key: Digest | None
    """None: already known."""
    manifest: Manifest
    recipe: Recipe
    variant_probe: ProbeOutput
    checkpoint_probe: ProbeOutput
    ladder_directory: Path
    evaluation: EvaluationEntry
    tasks: tuple[TaskRequest, ...]
    speed: SpeedRequest | None = None
    """None: it is not timed."""
