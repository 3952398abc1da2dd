from __future__ import annotations

import pytest

from matrices.chips.chip import chips, find_accelerator, find_chip
from registry.target import targets

PROCESSORS = {chip.id for chip in chips() if targets()[chip.targets[0]].kind == "cpu"}


def test_every_accelerator_says_its_memory_and_where_the_figure_is_from() -> None:
    for chip in chips():
        if chip.id in PROCESSORS:
            continue
        assert chip.shares_host_memory != (chip.memory_bytes is not None), chip.id
        assert bool(chip.memory_source) == (chip.memory_bytes is not None), chip.id


def test_the_figures_of_memory_are_those_of_the_data_sheets() -> None:
    sizes = {chip.id: chip.memory_bytes for chip in chips()}
    assert sizes["nvidia-h100-sxm"] == 80_000_000_000
    assert sizes["nvidia-h200-sxm"] == 141_000_000_000
    assert sizes["amd-mi250x"] == 64_000_000_000, "one of the two devices that its driver lists"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-sxm"),
        ("NVIDIA H100 PCIe", "nvidia-h100-pcie"),
        ("NVIDIA A100-SXM4-40GB", "nvidia-a100-sxm-40gb"),
        ("NVIDIA GeForce RTX 4090", "nvidia-rtx-4090"),
        ("NVIDIA H20-3e", "nvidia-h20"),
        ("AMD Instinct MI300X", "amd-mi300x"),
        ("AMD EPYC 9965 192-Core Processor", None),
        ("unknown", None),
        ("", None),
    ],
)
def test_an_accelerator_is_known_by_the_name_that_its_driver_reports(name: str, found: str | None) -> None:
    chip = find_accelerator(name)
    assert (chip.id if chip else None) == found


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "cuda-sm80"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", "cuda-sm90"),
        ("NVIDIA H100-20C", "cuda-sm90"),
        ("NVIDIA H100XM-10C", "cuda-sm90"),
        ("NVIDIA H100-1-10CME", "cuda-sm90"),
        ("NVIDIA L40S-4Q", "cuda-sm89"),
        ("NVIDIA H20-12A", "cuda-sm90"),
    ],
)
def test_a_slice_of_a_gpu_has_neither_the_memory_nor_the_speed_of_the_whole(name: str, target: str) -> None:
    assert find_accelerator(name) is None
    assert find_chip(name, target=target) is None
