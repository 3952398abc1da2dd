"""The rehearse stage: an artifact's parity where an emulator or a stand-in runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from compilers.check.parity import Parity
from matrices.cells.measurement import Measurement
from pipeline.stages.backend_code import rehearsal_code
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.stage import Stage, StageKey
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

    work: ClassVar = "pipeline.stages.work.rehearse:rehearse"
    kind: Literal["rehearse"] = "rehearse"
    key: Digest
    manifest: Manifest
    recipe: Recipe
    variant_probe: ProbeOutput
    checkpoint_probe: ProbeOutput


REHEARSE = Stage(
    "rehearse",
    work=RehearseRequest.work,
    output=RehearseOutput,
    needs=("quantize", "probe", "prove"),
)


def rehearse_key(
    manifest: Manifest,
    *,
    variant: ProbeOutput,
    checkpoint: ProbeOutput,
    means: Mapping[str, str | None],
    chip: str,
) -> StageKey[RehearseOutput]:
    """The key of a rehearsal.

    Args:
        manifest: The artifact.
        variant: What torch computes with the variant's weights.
        checkpoint: What torch computes with the checkpoint's.
        means: What rehearsals on this machine depend on (`compilers/backend.py`).
        chip: Of this machine.
    """
    return REHEARSE.key(
        backend=rehearsal_code(manifest.toolchain),
        artifact=manifest.digest,
        variant=variant,
        checkpoint=checkpoint,
        means=means,
        chip=chip,
    )
