"""The GPUs of this machine, as the driver's library, the kernel, `nvidia-smi` and `rocminfo` report them."""

from __future__ import annotations

import re
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path

from compilers.tvm.gpu.driver import amd_architectures, has_driver, open_gpus
from registry.errors import LoadError
from registry.host import Accelerator

PROBE_TIMEOUT_S = 10.0
"""Time that a vendor's own tool may take to answer."""
_AMD_DRIVER = Path("/sys/module/amdgpu/version")
_NVIDIA_DRIVER = Path("/proc/driver/nvidia/version")
_KFD = Path("/sys/class/kfd/kfd/topology/nodes")


def gpus_here() -> tuple[Accelerator, ...]:
    """NVIDIA's GPUs, then AMD's, each in its driver's order."""
    return (*_nvidia(), *_amd())


def _nvidia() -> tuple[Accelerator, ...]:
    """Those that programs see; `nvidia-smi` also lists hidden GPUs, and the whole GPU of a MIG instance.

    The version of the driver is not in its library, which knows only CUDA's.
    """
    query = ["--query-gpu=name,driver_version,compute_cap,memory.total", "--format=csv,noheader,nounits"]
    listed = smi_gpus(_ask("nvidia-smi", *query))
    if not has_driver("cuda"):
        return listed
    driver = listed[0].driver if listed else None
    return _by_libcuda(driver or kernel_driver(_text(_NVIDIA_DRIVER)))


def _by_libcuda(driver: str | None) -> tuple[Accelerator, ...]:
    with suppress(LoadError):
        return tuple(
            Accelerator(
                architecture=gpu.architecture, chip=gpu.chip, memory_bytes=gpu.memory_bytes, driver=driver
            )
            for gpu in open_gpus("cuda")
        )
    return ()


def smi_gpus(text: str) -> tuple[Accelerator, ...]:
    """The GPUs in what `nvidia-smi` prints: name, driver's version, compute capability and MiB of each."""
    found: list[Accelerator] = []
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) != 4 or not re.fullmatch(r"\d+\.\d+", parts[2]):
            continue
        name, driver, capability, mebibytes = parts
        found.append(
            Accelerator(
                architecture="sm_" + capability.replace(".", ""),
                chip=name,
                memory_bytes=int(mebibytes) << 20 if mebibytes.isdigit() else None,
                driver=driver if re.fullmatch(r"\d+(\.\d+)+", driver) else None,
            )
        )
    return tuple(found)


def kernel_driver(text: str) -> str | None:
    """The version of NVIDIA's driver in its kernel module's own words, which `nvidia-smi` says alike.

    The line is `NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27 …`.
    """
    found = re.search(r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", text, flags=re.MULTILINE)
    return found[1] if found else None


def _amd() -> tuple[Accelerator, ...]:
    """Architecture and memory from the kernel, names from `rocminfo`, whose order is the same."""
    driver = _AMD_DRIVER.read_text(encoding="utf-8").strip() if _AMD_DRIVER.is_file() else None
    architectures, memories = amd_architectures(_KFD), amd_memory_bytes(_KFD)
    named = rocm_names(_ask("rocminfo"))
    if not architectures:  # the kernel's files are hidden from some containers
        architectures, memories = tuple(architecture for architecture, _ in named), (None,) * len(named)
    names = (
        [name for _, name in named] if len(named) == len(architectures) else ["unknown"] * len(architectures)
    )
    return tuple(
        Accelerator(architecture=architecture, chip=name, memory_bytes=memory, driver=driver or None)
        for architecture, name, memory in zip(architectures, names, memories, strict=True)
    )


def rocm_names(text: str) -> tuple[tuple[str, str], ...]:
    """Architecture and name of each GPU in what `rocminfo` prints.

    GPUs have `Name: gfx942` and, after it, `Marketing Name: AMD Instinct MI300X`; processors are skipped.
    """
    found: list[tuple[str, str]] = []
    architecture: str | None = None
    for line in text.splitlines():
        if name := re.match(r"\s*Name:\s+(\S.*?)\s*$", line):
            architecture = name[1] if re.fullmatch(r"gfx\w+", name[1]) else None
        elif architecture and (marketing := re.match(r"\s*Marketing Name:\s+(\S.*?)\s*$", line)):
            found.append((architecture, marketing[1]))
            architecture = None
    return tuple(found)


def amd_memory_bytes(nodes: Path) -> tuple[int | None, ...]:
    """Memory of each AMD GPU that Linux lists, in the order of `amd_architectures`.

    Banks of a GPU's own memory have heap type 1 or 2, public or private (HSA_MEM_HEAP_TYPE in Linux).
    """
    found: list[int | None] = []
    for node in sorted(nodes.glob("*"), key=lambda path: int(path.name) if path.name.isdigit() else -1):
        version = re.search(r"^gfx_target_version (\d+)$", _text(node / "properties"), flags=re.MULTILINE)
        if version is None or not int(version[1]):
            continue
        total = 0
        for bank in node.glob("mem_banks/*/properties"):
            facts = dict(line.split(None, 1) for line in _text(bank).splitlines() if " " in line)
            if facts.get("heap_type") in ("1", "2"):
                total += int(facts.get("size_in_bytes", "0"))
        found.append(total or None)
    return tuple(found)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


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
