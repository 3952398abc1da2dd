"""Hosts: what a machine is (processor, memory, GPUs, NPUs), for decisions on what it may load."""

from __future__ import annotations

from pydantic import Field, field_validator

from registry.value import Value


class Accelerator(Value):
    """One GPU or NPU of a machine."""

    architecture: str
    """As targets name it: `sm_90`, `gfx942`, `htp-v73` …"""
    chip: str = "unknown"
    """Name that its driver reports."""
    memory_bytes: int | None = Field(default=None, ge=0)
    """Memory that one program may use on it; None or 0: not known."""
    driver: str | None = None
    """Version of its driver; None: not known."""


class Host(Value):
    """What a machine is: the facts that load-time decisions are made from."""

    architecture: str
    """`x86_64` or `aarch64`, as `platform.machine()` says."""
    features: tuple[str, ...]
    """Processor flags, sorted."""
    memory_bytes: int
    """Physical memory, or the control group's limit where that is lower; 0 or less: not known."""
    cores: int
    """Cores that this process may use."""
    chip: str = "unknown"
    """The processor's own name, for evidence."""
    accelerators: tuple[Accelerator, ...] = ()
    """GPUs and NPUs, in the order in which their drivers list them."""

    @field_validator("accelerators", mode="before")
    @classmethod
    def _architectures_alone(cls, given: object) -> object:
        """Files of Rung 0.1 name accelerators by architecture alone, as in `["sm_90"]`."""
        if not isinstance(given, list | tuple):
            return given
        return [{"architecture": each} if isinstance(each, str) else each for each in given]
