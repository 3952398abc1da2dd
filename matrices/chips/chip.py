"""The chip table (`chips.toml`): memory size, memory bandwidth and peak arithmetic of CPUs, GPUs and NPUs."""

from __future__ import annotations

import functools
import re
import tomllib
from fnmatch import fnmatchcase
from importlib import resources
from typing import Final, Literal

from pydantic import Field

from registry.target import targets
from registry.value import Value

NumberFormat = Literal["fp32", "fp16", "int8"]
_SLICE: Final = re.compile(r"\bMIG\b|-\d+[ABCQ](ME)?$")
"""Names of a part of an NVIDIA GPU: a MIG instance (`… MIG 1g.5gb`) or a vGPU (`H100-20C`, `L40S-4Q`)."""


class Chip(Value):
    """One kind of chip."""

    id: str
    """Such as `nvidia-h100-sxm`."""
    name: str
    vendor: str
    """The vendor, as targets name it."""
    targets: tuple[str, ...] = Field(min_length=1)
    names: tuple[str, ...] = Field(min_length=1)
    """Shell patterns that match the name the chip reports."""
    memory_bytes: int | None = None
    """Memory of one device, as the driver lists devices."""
    memory_source: str = ""
    """Where the memory figure comes from, in words."""
    shares_host_memory: bool = False
    """Whether the device uses the host's memory."""
    bandwidth_gb_per_s: float | None = None
    peak_tflops: dict[NumberFormat, float] = Field(default={})
    """Number format → peak without sparsity; integer formats in tera-operations per second."""
    source: str


@functools.cache
def chips() -> tuple[Chip, ...]:
    """All known chips, in the order of the file."""
    text = resources.files("matrices.chips").joinpath("chips.toml").read_text(encoding="utf-8")
    return tuple(Chip(id=name, **facts) for name, facts in tomllib.loads(text).items())


def find_accelerator(name: str) -> Chip | None:
    """The GPU or NPU whose driver reports this name; None if the table has none, or it is a part of a GPU."""
    matching = (chip for chip in chips() if targets()[chip.targets[0]].kind != "cpu")
    return next((chip for chip in matching if _is_named(chip, name)), None)


def find_chip(name: str | None, *, target: str) -> Chip | None:
    """The chip that reports this name and runs a target; None as for `find_accelerator`."""
    matching = (chip for chip in chips() if target in chip.targets)
    return next((chip for chip in matching if _is_named(chip, name or "")), None)


def _is_named(chip: Chip, name: str) -> bool:
    if chip.vendor == "nvidia" and _SLICE.search(name):
        return False
    return any(fnmatchcase(name, pattern) for pattern in chip.names)
