"""The probe stage: the logits that torch computes for the probe with a checkpoint's own weights.

Its work is part of a reference request (`reference.py`), which loads the checkpoint once for both.
"""

from __future__ import annotations

from compilers.installed import required_version
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.stage import Stage, StageKey
from registry.checkpoint import Checkpoint

PROBE = Stage(
    "probe",
    work="pipeline.stages.work.checkpoint_probe:probe_checkpoint",
    output=ProbeOutput,
    needs=("export",),
)


def probe_key(checkpoint: Checkpoint, *, calibration: str | None) -> StageKey[ProbeOutput]:
    """The key of a checkpoint's probe.

    Args:
        checkpoint: The checkpoint.
        calibration: Digest of the calibration set, whose texts are probed; None: there is none.

    Raises:
        ToolchainMissingError: torch or transformers is not installed.
    """
    return PROBE.key(
        checkpoint=checkpoint.digest,
        calibration=calibration,
        torch=required_version("torch", extra="build"),
        transformers=required_version("transformers", extra="build"),
    )
