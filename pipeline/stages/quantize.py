"""The quantize stage: checkpoint × recipe → variant, and the variant's probe."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from compilers.installed import required_version
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.stage import Stage, StageKey
from registry.artifact import ModelFacts
from registry.checkpoint import Checkpoint, FileEntry
from registry.digest import Digest
from registry.recipe import Recipe
from registry.value import Value
from registry.variant import Variant


class QuantizeOutput(Value):
    """A variant, and its probe."""

    variant: Variant
    probe: ProbeOutput


class QuantizeRequest(Value):
    """Checkpoint × recipe → variant."""

    work: ClassVar = "pipeline.stages.work.quantize:quantize"
    kind: Literal["quantize"] = "quantize"
    key: Digest
    checkpoint: Checkpoint
    recipe: Recipe
    graph: FileEntry
    """The checkpoint's interchange graph."""
    facts: ModelFacts
    calibration: Path | None
    """JSONL file with a field `text`."""


QUANTIZE = Stage("quantize", work=QuantizeRequest.work, output=QuantizeOutput, needs=("export",))


def quantize_key(
    checkpoint: Checkpoint, recipe: Recipe, *, graph: Digest, calibration: str | None
) -> StageKey[QuantizeOutput]:
    """The key of a quantization. The calibration set also gives the probe, so it counts for every recipe.

    Args:
        checkpoint: The checkpoint.
        recipe: What is done to its weights.
        graph: Digest of its interchange graph.
        calibration: Digest of the calibration set; None: there is none.

    Raises:
        ToolchainMissingError: torch or transformers is not installed.
    """
    return QUANTIZE.key(
        checkpoint=checkpoint.digest,
        recipe=recipe,
        graph=graph,
        calibration=calibration,
        torch=required_version("torch", extra="build"),
        transformers=required_version("transformers", extra="build"),
    )
