"""Memory that code of a target may use on a host: the processor's, or that of one GPU or NPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from matrices.chips.chip import find_accelerator
from registry.host import Accelerator, Host
from registry.target import Target, accelerators_for

USABLE_SHARE: Final = 0.9
"""Share of a memory that an artifact with its caches may take; the rest is for system, driver and process."""


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory that an artifact would be loaded into."""

    owner: str
    """Whose it is, for people."""
    usable_bytes: int | None
    """What an artifact may take of it; None: not known."""


def memories_for(target: Target, host: Host) -> tuple[Memory, ...]:
    """Each memory that an artifact for a target could be loaded into; none: nothing here runs it."""
    if target.kind == "cpu":
        return (Memory("the host", _usable(host.memory_bytes)),)
    return tuple(
        Memory(_owner(one), _usable(_memory_bytes(one, host))) for one in accelerators_for(target, host)
    )


def usable_memory_bytes(target: Target, host: Host) -> int | None:
    """The largest known memory that an artifact for a target may take on a host; None: none is known."""
    known = [each.usable_bytes for each in memories_for(target, host) if each.usable_bytes is not None]
    return max(known, default=None)


def _owner(one: Accelerator) -> str:
    known = one.chip != "unknown"
    return f"{one.chip} ({one.architecture})" if known else f"the accelerator {one.architecture}"


def _memory_bytes(one: Accelerator, host: Host) -> int | None:
    """What the driver reports, or else the chip table."""
    if one.memory_bytes is not None:
        return one.memory_bytes
    chip = find_accelerator(one.chip)
    if chip is None:
        return None
    return host.memory_bytes if chip.shares_host_memory else chip.memory_bytes


def _usable(memory_bytes: int | None) -> int | None:
    return int(memory_bytes * USABLE_SHARE) if memory_bytes else None
