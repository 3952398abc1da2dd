"""Expiry of evidence: whether measurements still apply to the versions in use.

Evidence applies to one artifact, one runtime and one version of it, compared as exact strings: what is
evaluated is what is shipped. With any other version, even a patch release, the evidence has expired, because
kernels change between versions. The same goes for the driver of its accelerator and for the toolchain that
the artifact was built with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from matrices.cells.cell import Cell, Evidence
from matrices.cells.levels import own_steps, valid_steps
from registry.artifact import Manifest


@dataclass(frozen=True, slots=True)
class Versions:
    """The versions in use on a machine; what is not listed is not judged."""

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
    """Why the cell's evidence does not apply to the versions in use; None if it applies or there is none.

    Args:
        cell: The cell with its evidence.
        runtimes: Runtime → version in use; a runtime that is not listed is not judged.
        versions: The same, with drivers and toolchains.
        manifest: The artifact's manifest, which names the toolchain's version; None: toolchains are not
            judged.
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
    """The latest evaluation with its runtime's version, else the latest other measurement on the chip."""
    for entry in reversed(own_steps(cell)):
        if entry.state == "evaluated" and entry.measurement and entry.measurement.runtime_version:
            return entry
    steps = ("loads", "close", "benchmarked")
    return next((e for e in reversed(valid_steps(cell)) if e.state in steps), None)
