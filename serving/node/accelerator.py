"""The chip that runs a target's code on this machine, by its own name, and the version of its driver."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from registry.target import Host, Target, missing_features

PROBE_TIMEOUT_S = 10.0
"""Time that a vendor's own tool may take to answer."""
_AMD_DRIVER = Path("/sys/module/amdgpu/version")


@dataclass(frozen=True, slots=True)
class ChipHere:
    """What evidence names."""

    name: str
    driver: str | None = None
    """None for processors, and where no tool says it."""


def chip_here(target: Target, host: Host) -> ChipHere:
    """The chip of this machine that runs a target's code; the processor where no accelerator is known."""
    match target.kind:
        case "cuda":
            found = _nvidia(target, host)
        case "rocm":
            found = _amd(target)
        case _:
            found = None
    return found or ChipHere(host.chip)


def _nvidia(target: Target, host: Host) -> ChipHere | None:
    query = ["--query-gpu=name,driver_version,compute_cap", "--format=csv,noheader"]
    for line in _ask("nvidia-smi", *query).splitlines():
        name, driver, capability = [*(part.strip() for part in line.split(",")), "", "", ""][:3]
        one = host.model_copy(update={"accelerators": ("sm_" + capability.replace(".", ""),)})
        if name and not missing_features(one, target=target):
            return ChipHere(name, driver or None)
    return None


def _amd(target: Target) -> ChipHere | None:
    """From `rocminfo`: agents have `Name: gfx942` and, after it, `Marketing Name: AMD Instinct MI300X`."""
    architecture = ""
    for line in _ask("rocminfo").splitlines():
        if found := re.match(r"\s*Name:\s+(gfx\w+)\s*$", line):
            architecture = found[1]
        elif architecture in target.architectures and (
            found := re.match(r"\s*Marketing Name:\s+(\S.*?)\s*$", line)
        ):
            driver = _AMD_DRIVER.read_text(encoding="utf-8").strip() if _AMD_DRIVER.is_file() else None
            return ChipHere(found[1], driver or None)
    return None


def _ask(tool: str, *arguments: str) -> str:
    """What a tool prints; nothing where it is absent or fails."""
    path = shutil.which(tool)
    if path is None:
        return ""
    try:
        return subprocess.run(
            [path, *arguments], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
