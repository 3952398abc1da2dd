"""How much memory an artifact may use on a host: the host's own memory, or that of one GPU or NPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from matrices.chips.chip import find_accelerator
from registry.host import Accelerator, Host
from registry.target import Target, accelerators_for

USABLE_SHARE: Final = 0.9
"""Share of a memory that an artifact and its caches may use; the system, the driver and the process need the
rest."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory that an artifact could be loaded into."""

    owner: str
    """The host or accelerator that it belongs to, for people."""
    usable_bytes: int | None
    """How much of it an artifact may use; None: not known."""


def memories_for(target: Target, host: Host) -> tuple[Memory, ...]:
    """Every memory that an artifact for a target could be loaded into; empty if nothing here runs it."""
    if target.kind == "cpu":
        return (Memory("the host", _usable(host.memory_bytes)),)
    return tuple(
        Memory(_owner(accelerator), _usable(_memory_bytes(accelerator, host)))
        for accelerator in accelerators_for(target, host)
    )


def usable_memory_bytes(target: Target, host: Host) -> int | None:
    """The most memory that an artifact for a target may use on a host; None if no size is known."""
    known = [each.usable_bytes for each in memories_for(target, host) if each.usable_bytes is not None]
    return max(known, default=None)


def _owner(accelerator: Accelerator) -> str:
    chip, architecture = accelerator.chip, accelerator.architecture
    return f"the accelerator {architecture}" if chip == "unknown" else f"{chip} ({architecture})"


def _memory_bytes(accelerator: Accelerator, host: Host) -> int | None:
    """The driver's figure, or else the chip table's; a driver's 0 is no figure."""
    if accelerator.memory_bytes:
        return accelerator.memory_bytes
    chip = find_accelerator(accelerator.chip)
    if chip is None:
        return None
    return host.memory_bytes if chip.shares_host_memory else chip.memory_bytes


def _usable(memory_bytes: int | None) -> int | None:
    return int(memory_bytes * USABLE_SHARE) if memory_bytes is not None and memory_bytes > 0 else None
