"""The verify stage: an artifact's parity with torch on the hardware of its target."""

from __future__ import annotations

from compilers.check.parity import Parity
from registry.value import Value


class VerifyOutput(Value):
    """The artifact loaded, and how close it is."""

    parity: Parity
    runtime_version: str
    chip: str
    driver: str | None = None
    """Version of the accelerator's driver; None for processors."""
