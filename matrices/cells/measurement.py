"""Provenance of a measurement: the runtime, chip and driver it was obtained with, by what means, and when.

One value, made where something is measured (`serving/node/accelerator.py` names the chip) and carried
unchanged from a stage's output or a node's evidence file into the evidence of a cell, the database and
every release. A new fact of provenance is a field here and nothing else on that way.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime

from registry.value import Value

Via = Literal["chip", "emulator", "proxy"]
"""What ran the artifact: the target's own chip; an emulator or stand-in; or another target, to which the same
weights were lowered. Only the chip itself counts toward a cell's level."""


class Measurement(Value):
    """What something was measured on. A fact that is None was not known or does not apply."""

    runtime: str | None = None
    """Name of the runtime, which is the artifact's format; None where nothing was run."""
    runtime_version: str | None = None
    chip: str | None = None
    """The chip's own name; where `via` is `emulator`, the means and its version."""
    driver: str | None = None
    """Version of the accelerator's driver; None for processors."""
    via: Via = "chip"
    at: AwareDatetime

    def same_conditions(self, other: Measurement) -> bool:
        """Whether the two differ in nothing but their time."""
        return self == other.model_copy(update={"at": self.at})
