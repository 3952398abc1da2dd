"""The compilers that machine code for GPUs needs beside TVM: NVIDIA's `nvcc`, LLVM's `ld.lld`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.errors import ToolchainMissingError

NVCC_HINT = "install `rung[cuda]`, or put the CUDA toolkit's `nvcc` on PATH, or set CUDA_HOME"
LLD_HINT = "install `rung[rocm]`, or put LLVM's `ld.lld` on PATH"
_PROBE_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Nvcc:
    """NVIDIA's compiler."""

    command: tuple[str, ...]
    environment: Mapping[str, str]


def find_nvcc() -> Nvcc:
    """The CUDA compiler: of CUDA_HOME, then of PATH, then of the wheels `nvidia-cuda-nvcc` and others.

    Raises:
        ToolchainMissingError: There is none, or no C++ compiler that it needs for the host's part.
    """
    for path in _nvccs():
        if shutil.which("g++") is None and shutil.which("clang++") is None:
            raise ToolchainMissingError(
                "`nvcc` needs a C++ compiler (`g++`), which is not on PATH", hint="install `g++`"
            )
        return Nvcc((str(path),), dict(os.environ))
    raise ToolchainMissingError("`nvcc` is not installed", hint=NVCC_HINT)


def find_lld() -> tuple[str, ...]:
    """The command of an ELF linker of LLVM: of PATH, of ROCm, or the one inside the wheel `ziglang`.

    Raises:
        ToolchainMissingError: There is none.
    """
    names = ("ld.lld", *(f"ld.lld-{version}" for version in range(30, 14, -1)), "/opt/rocm/llvm/bin/ld.lld")
    for name in names:
        if found := shutil.which(name):
            return (found,)
    if importlib.util.find_spec("ziglang") is not None:
        command = (sys.executable, "-m", "ziglang", "ld.lld")
        done = subprocess.run([*command, "--version"], capture_output=True, timeout=_PROBE_TIMEOUT_S)
        if done.returncode == 0:
            return command
    raise ToolchainMissingError("`ld.lld` is not installed", hint=LLD_HINT)


def tool_version(command: tuple[str, ...]) -> str:
    """The version that a compiler or linker gives of itself: `13.0.88`; `unknown` if it gives none."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"(?:V|LLD )(\d+(?:\.\d+)+)", done.stdout)
    return found[1] if found else "unknown"


def _nvccs() -> Iterator[Path]:
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if home and (path := Path(home) / "bin" / "nvcc").is_file():
        yield path
    if found := shutil.which("nvcc"):
        yield Path(found)
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        # The wheels share one tree: nvidia-cuda-nvcc has bin/nvcc, nvidia-nvvm its back end, and
        # nvidia-cuda-crt and nvidia-cuda-runtime the headers.
        for root in sorted(Path(folder).glob("cu*"), reverse=True):
            needed = ("bin/nvcc", "nvvm/bin/cicc", "include/cuda_runtime.h", "include/crt/host_config.h")
            if all((root / part).is_file() for part in needed):
                yield root / "bin" / "nvcc"
