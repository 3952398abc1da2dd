"""The verify stage: an artifact's parity with torch on the hardware of its target."""

from __future__ import annotations

from compilers.check.parity import Parity
from matrices.cells.measurement import Measurement
from registry.value import Value


class VerifyOutput(Value):
    """The artifact loaded, and how close it is."""

    parity: Parity
    measurement: Measurement
