"""Small real binaries for the tests of proofs, made by the compilers that are there."""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

C_SOURCE = (
    "float scale(const float *x, int n) { float s = 0; for (int i = 0; i < n; i++) s += x[i] * 3; return s; }"
)
CUDA_SOURCE = (
    'extern "C" __global__ void __launch_bounds__(64) add(float* a, const float* b)'
    " { int i = blockIdx.x * 64 + threadIdx.x; a[i] += b[i]; }"
)
MLIR_SOURCE = """module @m {
  func.func @add(%a: tensor<64xf32>, %b: tensor<64xf32>) -> tensor<64xf32> {
    %0 = arith.addf %a, %b : tensor<64xf32>
    return %0 : tensor<64xf32>
  }
}
"""
ZIG_OPTIONS = {"-march=armv8.2-a+sve": "-mcpu=generic+v8_2a+sve"}
"""GCC's options for Arm as zig names them."""
COMPILERS = {"x86_64": ("x86_64-linux-gnu-gcc", "gcc"), "aarch64": ("aarch64-linux-gnu-gcc",)}


def run(*command: str | Path) -> None:
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def c_library(architecture: str, out: Path, *options: str) -> Path:
    """A shared library of one function, for a machine."""
    names = [n for n in COMPILERS[architecture] if n != "gcc" or os.uname().machine == architecture]
    compiler = next((found for name in names if (found := shutil.which(name))), None)
    out.with_suffix(".c").write_text(C_SOURCE)
    if compiler is not None:
        command = [compiler]
    elif importlib.util.find_spec("ziglang") is not None:
        command = [sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-gnu"]
        options = tuple(ZIG_OPTIONS.get(option, option) for option in options)
    else:
        pytest.skip(f"no C compiler for {architecture}")
    given = ["-O3", "-shared", "-fPIC", "-Wl,--build-id=none", *options, out.with_suffix(".c"), "-o", out]
    run(*command, *given)
    out.with_suffix(".c").unlink()
    return out


def fatbin(out: Path, *codes: str) -> Path:
    """CUDA code for some architectures: `sm_80`, or `compute_80` for PTX."""
    nvcc = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin:/usr/local/cuda-13.0/bin")
    if nvcc is None:
        pytest.skip("no nvcc")
    source = out.with_suffix(".cu")
    source.write_text(CUDA_SOURCE)
    options = [f"-gencode=arch={code.replace('sm', 'compute')},code={code}" for code in codes]
    run(nvcc, "--fatbin", *options, source, "-o", out)
    source.unlink()
    return out


def iree_module(out: Path, *options: str) -> Path:
    """An IREE module of one addition."""
    out.with_suffix(".mlir").write_text(MLIR_SOURCE)
    run(iree_compile(), *options, out.with_suffix(".mlir"), "-o", out)
    out.with_suffix(".mlir").unlink()
    return out


@functools.cache
def iree_compile() -> str:
    beside = Path(sys.executable).with_name("iree-compile")
    found = str(beside) if beside.exists() else shutil.which("iree-compile")
    if found is None:
        pytest.skip("no iree-compile")
    return found
