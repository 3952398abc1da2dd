"""Which of a driver's devices is opened for an accelerator of a host."""

from __future__ import annotations

import pytest

from compilers.iree.device import device_place, find_device, open_accelerator
from registry.errors import LoadError, ToolchainMissingError
from registry.host import Accelerator, Host
from registry.target import accelerator_for, find_target
from tests.compilers.conftest import this_host

A100, MI300X = "NVIDIA A100-SXM4-80GB", "AMD Instinct MI300X"


def host_with(*accelerators: Accelerator) -> Host:
    return this_host().model_copy(update={"accelerators": accelerators})


def gpu(architecture: str, chip: str = "unknown", gibibytes: int = 80) -> Accelerator:
    return Accelerator(architecture=architecture, chip=chip, memory_bytes=gibibytes << 30)


def test_the_device_is_the_one_whose_memory_and_name_the_host_gives() -> None:
    host = host_with(gpu("sm_80", "NVIDIA A30", 24), gpu("sm_80", A100), gpu("gfx942", MI300X, 192))
    one = accelerator_for(find_target("cuda-sm80"), host)
    assert one is not None
    assert device_place(["NVIDIA A30", A100], one, host) == 1
    assert device_place([A100, "NVIDIA A30"], one, host) == 0, "whatever the driver's order"


def test_of_several_of_one_name_it_is_the_one_at_the_same_place() -> None:
    busy, other, free = gpu("sm_80", A100, 40), gpu("sm_80", "NVIDIA A30", 24), gpu("sm_80", A100, 80)
    host = host_with(busy, other, free)
    assert device_place([A100, "NVIDIA A30", A100], free, host) == 2
    assert device_place([A100, "NVIDIA A30", A100], busy, host) == 0


def test_one_without_a_name_goes_by_its_place_among_those_of_its_platform() -> None:
    first, second = gpu("gfx90a"), gpu("gfx942")
    host = host_with(gpu("sm_80", A100), first, second)
    assert device_place(["AMD Instinct MI210", MI300X], second, host) == 1
    assert device_place([MI300X], second, host) is None, "one is hidden, nobody knows which"


@pytest.mark.parametrize("names", [[], ["NVIDIA L40S"], ["NVIDIA L4", "NVIDIA L4"]])
def test_a_device_that_may_be_another_is_not_taken(names: list[str]) -> None:
    one = gpu("sm_89", "NVIDIA L4", 24)
    assert device_place(names, one, host_with(one)) is None


def test_a_device_of_vulkan_has_its_drivers_name_behind_its_own() -> None:
    one = gpu("spirv-1.6", "llvmpipe")
    assert device_place(["llvmpipe (LLVM 15.0.6) (llvmpipe Mesa 22.3.6)"], one, host_with(one)) == 0


def test_a_session_is_opened_on_that_device_or_refused() -> None:
    try:
        there = find_device("vulkan", named="llvmpipe")
    except (LoadError, ToolchainMissingError) as error:
        pytest.skip(error.message)
    present, absent = gpu("spirv-1.6", "llvmpipe"), gpu("spirv-1.6", "NVIDIA H200")
    assert open_accelerator("vulkan", present, host_with(present)) is not None
    with pytest.raises(
        LoadError, match=r"no device that fits `NVIDIA H200` \(spirv-1\.6\); it has"
    ) as caught:
        open_accelerator("vulkan", absent, host_with(absent))
    assert there.name in caught.value.message
