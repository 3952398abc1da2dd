"""Targets: the instruction sets that toolchains compile for, and whether a host can run their code.

Their facts are data, in `targets.toml`.
"""

from __future__ import annotations

import functools
import re
import tomllib
from importlib import resources
from typing import Literal

from registry.errors import UnknownNameError
from registry.host import Accelerator, Host
from registry.value import Value

_COMPUTE = re.compile(r"^sm_(?P<major>\d+)(?P<minor>\d)$")


class Target(Value):
    """An instruction set that toolchains can compile for."""

    name: str
    """Such as `cpu-x86-64-v3`."""
    kind: Literal["cpu", "cuda", "rocm", "vulkan", "npu"]
    vendor: str
    architecture: str
    """As the platform names it: `x86_64`, `aarch64`, `sm_90`, `gfx942` …; several are joined by `+`."""
    llvm_cpu: str | None = None
    """LLVM's `-mcpu` for CPU targets."""
    features: tuple[str, ...]
    """Processor flags that code for this target may use."""

    @property
    def architectures(self) -> tuple[str, ...]:
        """The architectures that code for this target is made for; one but for fat binaries."""
        return tuple(self.architecture.split("+"))


@functools.cache
def targets() -> dict[str, Target]:
    """All known targets by name."""
    # Read in a way that import closures do not see (`pipeline/stages/closure.py`): keys hold the target
    # itself, so that a new target changes the key of no other one.
    text = (resources.files("registry") / "targets.toml").read_text(encoding="utf-8")
    return {name: Target(name=name, **facts) for name, facts in tomllib.loads(text).items()}


def find_target(name: str, *, where: str = "") -> Target:
    """The target of a name.

    Raises:
        UnknownNameError: No such target.
    """
    try:
        return targets()[name]
    except KeyError:
        raise UnknownNameError.of("target", name, known=targets(), where=where) from None


def missing_features(host: Host, *, target: Target) -> tuple[str, ...]:
    """What the host lacks to run code of a target; empty if it can run it."""
    if target.kind != "cpu":
        return () if accelerators_for(target, host) else (target.architecture,)
    if target.architecture != host.architecture:
        return (target.architecture,)
    return tuple(sorted(set(target.features) - set(host.features)))


def accelerators_for(target: Target, host: Host) -> tuple[Accelerator, ...]:
    """The host's accelerators that run code of a target, in the host's order."""
    return tuple(each for each in host.accelerators if runs_on(target, each.architecture))


def accelerator_for(target: Target, host: Host) -> Accelerator | None:
    """The accelerator that code of a target would use: the one with most memory, of equals the first."""
    return max(accelerators_for(target, host), key=lambda one: one.memory_bytes or 0, default=None)


def runs_on(target: Target, architecture: str) -> bool:
    """Whether an accelerator of an architecture runs code of a target."""
    return any(_runs(code, architecture) for code in target.architectures)


def _runs(code: str, here: str) -> bool:
    """Whether an accelerator of the architecture `here` runs code of another.

    CUDA machine code runs on chips of the same major and the same or a higher minor version
    (https://docs.nvidia.com/cuda/cuda-programming-guide, "binary compatibility"); a letter behind the number
    (`sm_90a`) takes that away. All other code runs on its own architecture alone.
    """
    made, found = _COMPUTE.match(code), _COMPUTE.match(here)
    if made is None or found is None:
        return code == here
    return made["major"] == found["major"] and int(made["minor"]) <= int(found["minor"])
