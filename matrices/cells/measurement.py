"""Provenance of a measurement: the runtime, chip and driver it was made with, how, and when.

It is created where the measurement is made (`serving/node/accelerator.py` names the chip) and carried
unchanged from a stage's output or a node's evidence file into the evidence of a cell, the database and every
release. A new fact about provenance is a new field here; nothing along that path has to change.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from registry.value import Value

Via = Literal["chip", "emulator", "proxy"]
"""What ran the artifact: the target's own chip; an emulator or stand-in; or another target that the same
weights were lowered to. Only the chip itself counts toward a cell's level."""


class Measurement(Value):
    """What a measurement was made on. None: not known, or does not apply."""

    runtime: str | None = None
    """Name of the runtime, which is the artifact's format; None if nothing was run."""
    runtime_version: str | None = None
    chip: str | None = None
    """The name that the chip reports; if `via` is `emulator`, the emulator and its version."""
    driver: str | None = None
    """Version of the accelerator's driver; None for processors."""
    via: Via = "chip"
    at: AwareDatetime

    def same_conditions(self, other: Measurement) -> bool:
        """Whether the two differ only in their time."""
        return self == other.model_copy(update={"at": self.at})
