"""The processor of this machine: its name and flags, and the memory and cores that control groups allow."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
ARM_PARTS: Mapping[tuple[int, int], str] = {
    (0x41, 0xD0C): "Arm Neoverse-N1",
    (0x41, 0xD40): "Arm Neoverse-V1",
    (0x41, 0xD49): "Arm Neoverse-N2",
    (0x41, 0xD4F): "Arm Neoverse-V2",
    (0x48, 0xD01): "HiSilicon TSV110",
    (0xC0, 0xAC3): "Ampere-1",
}
"""(implementer, part) → name, for kernels that give numbers only; Arm's Main ID Register documentation."""


def processor_flags(cpuinfo: str) -> tuple[str, ...]:
    """The flags that every processor in a `/proc/cpuinfo` has, sorted.

    x86 calls the line `flags`, arm `Features`, RISC-V `isa`. Cores of one machine may differ (big.LITTLE):
    code may use only what all of them have.
    """
    lines = re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, flags=re.MULTILINE)
    if not lines:
        lines = [text.replace("_", " ") for text in re.findall(r"^isa\s*:\s*(.*)$", cpuinfo, re.MULTILINE)]
    if not lines:
        return ()
    return tuple(sorted(set.intersection(*(set(line.split()) for line in lines))))


def chip_name(cpuinfo: str) -> str | None:
    """The processor's own name in a `/proc/cpuinfo`; None where it does not say."""
    named = re.search(r"^(?:model name|cpu model|Model)\s*:\s*(.+)$", cpuinfo, flags=re.MULTILINE)
    if named:
        return " ".join(named.group(1).split())
    implementer = re.search(r"^CPU implementer\s*:\s*(0x[0-9a-fA-F]+)$", cpuinfo, flags=re.MULTILINE)
    part = re.search(r"^CPU part\s*:\s*(0x[0-9a-fA-F]+)$", cpuinfo, flags=re.MULTILINE)
    if not implementer or not part:
        return None
    key = (int(implementer.group(1), 16), int(part.group(1), 16))
    return ARM_PARTS.get(key, f"implementer {key[0]:#x} part {key[1]:#x}")


def processor_name() -> str:
    """The name of this machine's processor, `unknown` where nothing says it."""
    return chip_name(read_text(CPUINFO)) or platform.processor() or "unknown"


def control_groups(membership: str, *, root: Path) -> tuple[Path, ...]:
    """Directories whose limits hold for a process, innermost first, of both versions of control groups.

    Args:
        membership: Content of `/proc/self/cgroup`.
        root: Where control groups are mounted.
    """
    found: list[Path] = []
    for line in membership.splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        for base in (root, root / "unified") if not controllers else _bases(root, controllers):
            group = base / path.lstrip("/")
            found += [group, *(p for p in group.parents if p == base or base in p.parents)]
            found.append(base)  # inside a container the path may not exist, and the mount is the group itself
    unique = dict.fromkeys(found)
    return tuple(path for path in unique if path.is_dir())


def memory_limit(groups: tuple[Path, ...]) -> float:
    """The lowest memory limit of these groups, in bytes; infinity without one."""
    limits = [_number(group / name) for group in groups for name in ("memory.max", "memory.limit_in_bytes")]
    return min((limit for limit in limits if limit is not None and limit > 0), default=math.inf)


def core_quota(groups: tuple[Path, ...]) -> float:
    """The lowest CPU quota of these groups, in cores; infinity without one."""
    quotas: list[float] = []
    for group in groups:
        words = read_text(group / "cpu.max").split()
        if len(words) == 2 and words[0].isdigit() and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
        quota, period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
        if quota and period and quota > 0:
            quotas.append(quota / period)
    return min(quotas, default=math.inf)


def architecture(machine: str) -> str:
    """A machine's architecture as targets name it: `x86_64`, `aarch64`."""
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine.lower(), machine.lower()) or "unknown"


def _bases(root: Path, controllers: str) -> list[Path]:
    wanted = {"memory", "cpu"} & set(controllers.split(","))
    return [root / name for name in ([controllers, *sorted(wanted)] if wanted else [])]


def memory_bytes(groups: tuple[Path, ...]) -> int:
    """Memory that this process may use, in bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(min(physical, memory_limit(groups)))


def cores(groups: tuple[Path, ...]) -> int:
    """Cores that this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(usable, core_quota(groups))))


def _number(path: Path) -> int | None:
    text = read_text(path).strip()
    return int(text) if re.fullmatch(r"-?\d+", text) else None


def read_text(path: Path) -> str:
    """A file's text; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
