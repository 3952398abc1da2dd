"""The reference stage: a checkpoint's scorecards in torch, which every artifact is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from compilers.installed import required_version
from pipeline.stages.stage import Stage, StageKey
from pipeline.stages.task import TaskRequest
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
    """Checkpoint → its probe and its scorecards, in torch, in one process that loads it once."""

    work: ClassVar = "pipeline.stages.work.measure_checkpoint:measure_checkpoint"
    kind: Literal["reference"] = "reference"
    probe_key: Digest | None
    """None: already known."""
    checkpoint: Checkpoint
    facts: ModelFacts
    calibration: Path | None
    ladder_directory: Path
    evaluation: EvaluationEntry
    tasks: tuple[TaskRequest, ...]


REFERENCE = Stage(
    "reference",
    work="pipeline.stages.work.reference:evaluate_checkpoint",
    output=ReferenceOutput,
    needs=("export",),
)


def reference_key(
    checkpoint: Checkpoint, *, tasks: str, evaluation: EvaluationEntry, max_samples: int | None, chip: str
) -> StageKey[ReferenceOutput]:
    """The key of a checkpoint's scorecard of one task type.

    Args:
        checkpoint: The checkpoint.
        tasks: Digest of the task type's definition (`evals/digest.py`).
        evaluation: How the ladder evaluates.
        max_samples: The ladder's limit for the task type.
        chip: Where torch runs.

    Raises:
        ToolchainMissingError: torch or transformers is not installed.
    """
    return REFERENCE.key(
        checkpoint=checkpoint.digest,
        tasks=tasks,
        evaluation=evaluation,
        max_samples=max_samples,
        torch=required_version("torch", extra="build"),
        transformers=required_version("transformers", extra="build"),
        chip=chip,
    )
