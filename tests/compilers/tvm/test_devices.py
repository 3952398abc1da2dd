from __future__ import annotations

from pathlib import Path

import pytest

from compilers.backend import accelerators_here
from compilers.tvm.devices import amd_memory_bytes, rocm_names
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


def test_nvidia_gpus_are_described_by_one_question_to_their_tool(tool):
    asked = tool("nvidia-smi", SMI)
    assert accelerators_here()[:2] == (
        Accelerator(
            architecture="sm_80", chip="NVIDIA A100-SXM4-80GB", memory_bytes=81920 << 20, driver="580.65"
        ),
        Accelerator(architecture="sm_90", chip="NVIDIA H200", memory_bytes=143771 << 20, driver="580.65.06"),
    )
    assert asked.read_text() == "asked\n"


def test_memory_that_the_tool_does_not_know_stays_unknown(tool):
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
