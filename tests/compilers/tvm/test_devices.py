from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compilers.backend import accelerators_here
from compilers.tvm.devices import amd_memory_bytes, kernel_driver, rocm_names
from compilers.tvm.gpu.driver import has_driver
from registry.host import Accelerator

ROCMINFO = """
Agent 1
  Name:                    AMD EPYC 9965
  Marketing Name:          AMD EPYC 9965
Agent 2
  Name:                    gfx942
  Marketing Name:          AMD Instinct MI300X
"""
SMI = "NVIDIA A100-SXM4-80GB, 580.65, 8.0, 81920\nNVIDIA H200, 580.65.06, 9.0, 143771"
KERNEL = "NVRM version: NVIDIA UNIX {kind}  580.65.06  Sun Jul 27 06:54:38 2025\nGCC version:  gcc 13.2.0\n"
LIST = """
import json
from compilers.tvm.devices import gpus_here
print(json.dumps([gpu.model_dump() for gpu in gpus_here()]))
"""


@pytest.fixture(scope="module")
def libcuda(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a library in the place of NVIDIA's driver."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("`cc` is not installed")
    folder = tmp_path_factory.mktemp("libcuda")
    flags = ["-O1", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    source = Path(__file__).parent / "gpu" / "fake_cuda.c"
    subprocess.run([compiler, *flags, str(source), "-o", str(folder / "libcuda.so.1")], check=True)
    return folder


def gpus_with(libcuda: Path, **settings: str) -> list[dict[str, Any]]:
    """The GPUs that a process finds by that library."""
    done = subprocess.run(
        [sys.executable, "-c", LIST],
        capture_output=True,
        text=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(libcuda), **settings},
        check=True,
    )
    return list(json.loads(done.stdout))


@pytest.fixture
def without_libcuda() -> None:
    if has_driver("cuda"):
        pytest.skip("there is an NVIDIA driver here")


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a vendor's tool on PATH, alone; it notes each time it is asked."""

    def put(name: str, text: str, *, code: int = 0) -> Path:
        path, asked = tmp_path / name, tmp_path / f"{name}.asked"
        path.write_text(f"#!/bin/sh\necho asked >> {asked}\n/bin/cat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)
        return asked

    monkeypatch.setenv("PATH", str(tmp_path))
    return put


def test_gpus_are_those_that_the_drivers_library_gives_to_programs(tool, libcuda: Path):
    asked = tool("nvidia-smi", SMI)
    found = gpus_with(libcuda, FAKE_GIBIBYTES="10")
    assert found == [
        {"architecture": "sm_90", "chip": "Fake GPU 0", "memory_bytes": 10 << 30, "driver": "580.65"}
    ]
    assert asked.read_text() == "asked\n"


def test_gpus_that_are_hidden_from_programs_are_not_listed(tool, libcuda: Path):
    tool("nvidia-smi", SMI)
    assert gpus_with(libcuda, FAKE_GPUS="0") == []


@pytest.mark.parametrize("text", ["", "NVIDIA H200, [N/A], 9.0, 143771"])
def test_the_version_of_cuda_is_not_taken_for_the_drivers(tool, libcuda: Path, text: str):
    tool("nvidia-smi", text)
    kernel = Path("/proc/driver/nvidia/version")
    expected = kernel_driver(kernel.read_text()) if kernel.exists() else None
    assert [one["driver"] for one in gpus_with(libcuda)] == [expected]


@pytest.mark.parametrize("kind", ["x86_64 Kernel Module", "Open Kernel Module for x86_64"])
def test_the_kernel_names_the_driver_as_its_tool_does(kind: str):
    assert kernel_driver(KERNEL.format(kind=kind)) == "580.65.06"
    assert kernel_driver("") is None


def test_nvidia_gpus_are_described_by_one_question_to_their_tool(tool, without_libcuda: None):
    asked = tool("nvidia-smi", SMI)
    assert accelerators_here()[:2] == (
        Accelerator(
            architecture="sm_80", chip="NVIDIA A100-SXM4-80GB", memory_bytes=81920 << 20, driver="580.65"
        ),
        Accelerator(architecture="sm_90", chip="NVIDIA H200", memory_bytes=143771 << 20, driver="580.65.06"),
    )
    assert asked.read_text() == "asked\n"


def test_memory_that_the_tool_does_not_know_stays_unknown(tool, without_libcuda: None):
    tool("nvidia-smi", "NVIDIA GH200 480GB, 580.65, 9.0, [N/A]")
    assert accelerators_here()[0].memory_bytes is None


def test_amd_gpus_are_described_by_one_question_to_their_tool(tool):
    asked = tool("rocminfo", ROCMINFO)
    assert Accelerator(architecture="gfx942", chip="AMD Instinct MI300X") in accelerators_here()
    assert asked.read_text() == "asked\n"
    assert rocm_names(ROCMINFO) == (("gfx942", "AMD Instinct MI300X"),)


def test_the_memory_of_amd_gpus_is_the_sum_of_their_own_banks(tmp_path):
    for node, (version, banks) in enumerate([(0, [(0, 64)]), (90402, [(1, 192), (4, 7)]), (110000, [])]):
        for index, (heap, gibibytes) in enumerate(banks):
            bank = tmp_path / str(node) / "mem_banks" / str(index)
            bank.mkdir(parents=True)
            (bank / "properties").write_text(f"heap_type {heap}\nsize_in_bytes {gibibytes << 30}\n")
        (tmp_path / str(node)).mkdir(exist_ok=True)
        (tmp_path / str(node) / "properties").write_text(f"gfx_target_version {version}\n")
    assert amd_memory_bytes(tmp_path) == (192 << 30, None)


@pytest.mark.parametrize(
    ("text", "code"), [("NVIDIA H200, 580.65, 9.0, 143771", 9), ("No devices were found", 0), ("", 0)]
)
def test_a_tool_that_fails_or_says_nothing_names_no_accelerator(tool, text, code):
    without = accelerators_here()
    asked = tool("nvidia-smi", text, code=code)
    assert accelerators_here() == without
    assert asked.exists()
