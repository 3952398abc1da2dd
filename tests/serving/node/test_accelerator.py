from __future__ import annotations

from registry.host import Accelerator, Host
from registry.target import find_target
from serving.node.accelerator import ChipHere, chip_here

HOST = Host(architecture="x86_64", features=(), memory_bytes=1, cores=1, chip="a processor")


def _with(*accelerators: Accelerator) -> Host:
    return HOST.model_copy(update={"accelerators": accelerators})


def test_a_processor_is_its_own_chip_and_has_no_driver():
    host = _with(Accelerator(architecture="sm_90", chip="NVIDIA H200", driver="580.65"))
    assert chip_here(find_target("cpu-x86-64-v3"), host) == ChipHere("a processor", None)


def test_an_accelerator_goes_by_its_own_name_with_its_driver():
    host = _with(
        Accelerator(architecture="sm_80", chip="NVIDIA A100-SXM4-80GB", driver="580.65"),
        Accelerator(architecture="sm_90", chip="NVIDIA H200", driver="580.65"),
        Accelerator(architecture="gfx942", chip="AMD Instinct MI300X"),
    )
    assert chip_here(find_target("cuda-sm90"), host) == ChipHere("NVIDIA H200", "580.65")
    assert chip_here(find_target("cuda-sm80"), host).name == "NVIDIA A100-SXM4-80GB"
    assert chip_here(find_target("cuda-sm80-sm89-sm90-sm100"), host).name == "NVIDIA A100-SXM4-80GB"
    assert chip_here(find_target("rocm-gfx942"), host).name == "AMD Instinct MI300X"


def test_where_no_accelerator_runs_the_code_the_processor_is_named():
    assert chip_here(find_target("cuda-sm90"), HOST) == ChipHere("a processor", None)
    assert chip_here(find_target("npu-intel"), HOST) == ChipHere("a processor", None)
