"""The verify stage: an artifact's parity with torch on the hardware of its target.

Its work is part of an examine request (`examine.py`), which loads the artifact once.
"""

from __future__ import annotations

from compilers.check.parity import Parity
from matrices.cells.measurement import Measurement
from pipeline.stages.backend_code import runtime_code
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.stage import Stage, StageKey
from registry.artifact import Manifest
from registry.value import Value


class VerifyOutput(Value):
    """The artifact loaded, and how close it is."""

    parity: Parity
    measurement: Measurement


VERIFY = Stage(
    "verify",
    work="pipeline.stages.work.verify:verify",
    output=VerifyOutput,
    needs=("quantize", "probe", "prove"),
)


def verify_key(
    manifest: Manifest, *, variant: ProbeOutput, checkpoint: ProbeOutput, runtime_version: str, chip: str
) -> StageKey[VerifyOutput]:
    """The key of a verification.

    Args:
        manifest: The artifact.
        variant: What torch computes with the variant's weights.
        checkpoint: What torch computes with the checkpoint's.
        runtime_version: Version of the artifact's runtime.
        chip: Of this machine.
    """
    return VERIFY.key(
        backend=runtime_code(manifest.toolchain),
        artifact=manifest.digest,
        variant=variant,
        checkpoint=checkpoint,
        runtime={"version": runtime_version, "chip": chip},
    )
