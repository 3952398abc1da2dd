"""The quantize stage: checkpoint × recipe → variant, and the variant's probe."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pipeline.stages.export import ExportOutput
from pipeline.stages.probe import ProbeOutput
from registry.checkpoint import Checkpoint
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

    kind: Literal["quantize"] = "quantize"
    key: Digest
    checkpoint: Checkpoint
    recipe: Recipe
    export: ExportOutput
    calibration: Path | None
    """JSONL file with a field `text`."""
