from __future__ import annotations

from pathlib import Path

import pytest

from registry.target import Host, find_target
from serving.node.accelerator import ChipHere, chip_here

HOST = Host(architecture="x86_64", features=(), memory_bytes=1, cores=1, chip="a processor")
ROCMINFO = """
Agent 1
  Name:                    AMD EPYC 9965
  Marketing Name:          AMD EPYC 9965
Agent 2
  Name:                    gfx942
  Marketing Name:          AMD Instinct MI300X
"""


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a vendor's tool on PATH, alone."""

    def put(name: str, text: str, *, code: int = 0) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n/bin/cat <<'END'\n{text}\nEND\nexit {code}\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return put


def test_a_processor_is_its_own_chip_and_has_no_driver(tool):
    tool("nvidia-smi", "NVIDIA H200, 580.65, 9.0")
    assert chip_here(find_target("cpu-x86-64-v3"), HOST) == ChipHere("a processor", None)


def test_an_accelerator_goes_by_its_own_name_with_its_driver(tool):
    tool("nvidia-smi", "NVIDIA A100-SXM4-80GB, 580.65, 8.0\nNVIDIA H200, 580.65.06, 9.0")
    assert chip_here(find_target("cuda-sm90"), HOST) == ChipHere("NVIDIA H200", "580.65.06")
    assert chip_here(find_target("cuda-sm80"), HOST).name == "NVIDIA A100-SXM4-80GB"
    fat = find_target("cuda-sm80-sm89-sm90-sm100")
    assert chip_here(fat, HOST).name == "NVIDIA A100-SXM4-80GB"


def test_amd_accelerators_are_told_by_their_marketing_name(tool):
    tool("rocminfo", ROCMINFO)
    assert chip_here(find_target("rocm-gfx942"), HOST).name == "AMD Instinct MI300X"
    assert chip_here(find_target("rocm-gfx1100"), HOST).name == "a processor"


@pytest.mark.parametrize(
    ("text", "code"), [("NVIDIA H200, 580.65, 9.0", 9), ("No devices were found", 0), ("", 0)]
)
def test_a_tool_that_fails_or_says_nothing_names_no_accelerator(tool, text, code):
    tool("nvidia-smi", text, code=code)
    assert chip_here(find_target("cuda-sm90"), HOST) == ChipHere("a processor", None)


def test_without_any_tool_the_processor_is_named(tool):
    assert chip_here(find_target("cuda-sm90"), HOST) == ChipHere("a processor", None)
    assert chip_here(find_target("npu-intel"), HOST) == ChipHere("a processor", None)
