"""The rehearse stage: an artifact's parity where an emulator or a stand-in runs it."""

from __future__ import annotations

from typing import Literal

from compilers.check.parity import Parity
from matrices.cells.measurement import Measurement
from pipeline.stages.probe import ProbeOutput
from registry.artifact import Manifest
from registry.digest import Digest
from registry.recipe import Recipe
from registry.value import Value


class RehearseOutput(Value):
    """How close the artifact is where something else runs it in its target's place."""

    parity: Parity | None
    """None: nothing here can."""
    means: str
    """What ran it, or why nothing could."""
    measurement: Measurement | None = None
    """None: nothing ran it."""


class RehearseRequest(Value):
    """Artifact → parity, by means other than its target."""

    kind: Literal["rehearse"] = "rehearse"
    key: Digest
    manifest: Manifest
    recipe: Recipe
    variant_probe: ProbeOutput
    checkpoint_probe: ProbeOutput
