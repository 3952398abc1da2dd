"""Expiry of evidence: whether what was measured still holds for the versions that are in use.

Evidence holds for one artifact, one runtime and one version of it, compared as exact strings: what is
evaluated is what is shipped. Any other version has expired evidence, a patch release too, because kernels
change there. The same holds for the driver of its accelerator, and for the toolchain that the artifact was
built with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matrices.cells.cell import Cell, Evidence
from matrices.cells.levels import own_steps, valid_steps
from registry.artifact import Manifest


@dataclass(frozen=True, slots=True)
class Versions:
    """What is in use somewhere; what is not named is not judged."""

    runtimes: Mapping[str, str] = field(default_factory=dict)
    """Runtime → version."""
    drivers: Mapping[str, str] = field(default_factory=dict)
    """Chip → version of its driver."""
    toolchains: Mapping[str, str] = field(default_factory=dict)
    """Toolchain → version."""


def expired(
    cell: Cell,
    *,
    runtimes: Mapping[str, str] | None = None,
    versions: Versions | None = None,
    manifest: Manifest | None = None,
) -> str | None:
    """Why the cell's evidence does not hold for what is in use; None if it holds, or there is none.

    Args:
        cell: The cell with its evidence.
        runtimes: Runtime → version in use; a runtime that is not named is not judged.
        versions: The same, and drivers and toolchains.
        manifest: The artifact's, which names its toolchain's version; None: toolchains are not judged.
    """
    used = versions or Versions(runtimes=runtimes or {})
    entry = _measured_step(cell)
    if entry is None or entry.measurement is None:
        return None
    on = entry.measurement
    did = "evaluated" if entry.state == "evaluated" else "measured"
    if on.runtime and used.runtimes.get(on.runtime, on.runtime_version) != on.runtime_version:
        now = f"{on.runtime} {used.runtimes[on.runtime]}"
        return f"{did} on {on.runtime} {on.runtime_version}, in use is {now}"
    chip = on.chip or ""
    if on.driver and used.drivers.get(chip, on.driver) != on.driver:
        return f"{did} with driver {on.driver} of {chip}, in use is {used.drivers[chip]}"
    if manifest is not None:
        built = manifest.toolchain_version
        now = used.toolchains.get(manifest.toolchain, built)
        if now != built:
            return f"built with {manifest.toolchain} {built}, in use is {manifest.toolchain} {now}"
    return None


def _measured_step(cell: Cell) -> Evidence | None:
    """The evaluation that counts, else the latest other measurement on the chip."""
    for entry in reversed(own_steps(cell)):
        if entry.state == "evaluated" and entry.measurement and entry.measurement.runtime_version:
            return entry
    steps = ("loads", "close", "benchmarked")
    return next((e for e in reversed(valid_steps(cell)) if e.state in steps), None)
