"""A module opened on a device: driver, parameters, and steps that run its functions.

Every loaded module has an instance, a device and parameters of its own, so that nothing of one session is
visible to another. What a function returns is memory of the device, which the next call uses again:
results are copied out before anything else happens.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from compilers.iree.binaries import embedded_binaries
from compilers.iree.module import SCOPE
from compilers.iree.package import RUNTIME, installed_version
from compilers.static.cache import State
from compilers.static.plan import STEPS, StaticPlan
from compilers.static.session import StaticSession, StepInputs, StepOutputs
from registry.errors import CorruptError, LoadError, ToolchainMissingError
from registry.host import Accelerator, Host

AGAIN = "pull or build the artifact again"
FAILURES = (RuntimeError, ValueError, LookupError, OSError, MemoryError)
"""What the bindings make of the runtime's status codes."""
_FLAGS = threading.Lock()
"""The number of threads is a flag of the process, read when a device is made."""
Untyped = Any
"""A class or value of IREE's bindings."""


class NamedDevice(NamedTuple):
    """An open device, and what its driver calls it."""

    name: str
    device: Untyped


def runtime() -> Untyped:
    """IREE's runtime.

    Raises:
        ToolchainMissingError: It is not installed, or of another series.
    """
    installed_version(RUNTIME)
    try:
        import iree.runtime
    except ImportError as error:
        raise ToolchainMissingError(
            f"IREE's runtime cannot be imported: {error}", hint="install `rung[iree]` again"
        ) from error
    return iree.runtime


def open_cpu(*, threads: int) -> Untyped:
    """A CPU device: the caller's thread alone, or a pool.

    Raises:
        LoadError: It cannot be made.
    """
    if threads == 1:
        return open_device("local-sync")
    with _FLAGS:
        runtime().flags.parse_flags(f"--task_topology_group_count={threads}")
        return open_device("local-task")


def open_device(driver: str, *, named: str | None = None) -> Untyped:
    """A device of a driver.

    Args:
        driver: As IREE names it: `hip`, `cuda`, `vulkan` …
        named: What the device's name must contain; the first device if None.

    Raises:
        LoadError: The driver's library or such a device is not on this machine.
    """
    return find_device(driver, named=named).device


def open_accelerator(driver: str, accelerator: Accelerator, host: Host) -> Untyped:
    """The device of a driver that is this accelerator of the host.

    Raises:
        LoadError: The driver's library is not on this machine, or none of its devices surely is that one.
    """
    wanted = f"`{accelerator.chip}` ({accelerator.architecture})"
    return _find(driver, lambda names: device_place(names, accelerator, host), wanted=wanted).device


def device_place(names: Sequence[str], accelerator: Accelerator, host: Host) -> int | None:
    """Which of a driver's devices is this accelerator of the host; None if that is not certain.

    Of several with its name it is the one at the same place among them. One whose name is not known goes by
    its place among those of its platform (`sm_*`, `gfx*`). Either way, as many must be there as the host
    lists.

    Args:
        names: What IREE calls the devices; for Vulkan with the driver's name behind, in brackets.
        accelerator: One of the host's.
        host: The machine.
    """
    if accelerator.chip == "unknown":
        places = list(range(len(names)))
        alike = [one for one in host.accelerators if _platform(one) == _platform(accelerator)]
    else:
        chip = accelerator.chip
        places = [place for place, name in enumerate(names) if name == chip or name.startswith(f"{chip} (")]
        alike = [one for one in host.accelerators if one.chip == chip]
    if len(places) != len(alike):
        return None
    return next((place for place, one in zip(places, alike, strict=True) if one is accelerator), None)


def _platform(accelerator: Accelerator) -> str:
    return re.split(r"[^a-z]", accelerator.architecture, maxsplit=1)[0]


def find_device(driver: str, *, named: str | None = None) -> NamedDevice:
    """A device of a driver, with its own name; arguments and errors are those of `open_device`."""

    def choose(names: Sequence[str]) -> int | None:
        return next((place for place, name in enumerate(names) if named is None or named in name), None)

    return _find(driver, choose, wanted="any" if named is None else f"`{named}`")


def _find(driver: str, choose: Callable[[Sequence[str]], int | None], *, wanted: str) -> NamedDevice:
    runtime()
    from iree.runtime._binding import create_hal_driver  # the public way returns one shared by the process

    hint = f"it needs a device of IREE's driver `{driver}` and that device's own libraries"
    try:
        made = create_hal_driver(driver)
        devices = made.query_available_devices()
        names = [str(device["name"]) for device in devices]
        place = choose(names)
        if place is None:
            there = ", ".join(names) or "none"
            raise LoadError(
                f"IREE's driver `{driver}` has no device that fits {wanted}; it has {there}", hint=hint
            )
        return NamedDevice(names[place], made.create_device(devices[place]))
    except FAILURES as error:
        raise LoadError(f"IREE's driver `{driver}` finds no device: {_brief(error)}", hint=hint) from error


def open_session(device: Untyped, plan: StaticPlan, *, module: Path, weights: Path) -> StaticSession:
    """A session over a module's two functions.

    Raises:
        LoadError: The module is damaged or for another device, or the weights are not those that it wants.
    """
    rt = runtime()
    try:
        embedded_binaries(module)  # reads the archive's checksums: IREE maps what it is given
    except CorruptError as error:
        raise LoadError(error.message, hint=error.hint) from error
    instance, index = rt.VmInstance(), rt.ParameterIndex()
    try:
        index.load(str(weights))
    except FAILURES as error:
        raise LoadError(f"`{weights}` is not a weights file: {_brief(error)}", hint=AGAIN) from error
    try:
        code = rt.VmModule.mmap(instance, str(module))
        parameters = rt.create_io_parameters_module(instance, index.create_provider(scope=SCOPE))
        context = rt.VmContext(instance, [parameters, rt.create_hal_module(instance, device), code])
        functions = [code.lookup_function(step) for step in STEPS]
    except FAILURES as error:
        raise LoadError(f"IREE cannot load `{module}`: {_brief(error)}", hint=AGAIN) from error
    if not all(functions):
        raise LoadError(f"`{module}` has no functions {' and '.join(STEPS)}", hint=AGAIN)
    decode, prefill = (IreeStep(rt.FunctionInvoker(context, device, f), device) for f in functions)
    return StaticSession(plan, decode=decode, prefill=prefill)


class IreeStep:
    """A `StaticStep`: one function of a module."""

    def __init__(self, function: Untyped, device: Untyped) -> None:
        self._function = function
        self._device = device

    def run(self, inputs: StepInputs) -> StepOutputs:
        """Run it once.

        Raises:
            LoadError: The runtime failed.
        """
        try:
            made: Sequence[Untyped] = self._function(*inputs.arrays())
            logits, *new = (self._fetch(array) for array in made)
        except FAILURES as error:
            raise LoadError(
                f"IREE failed in a step: {_brief(error)}", hint="free some memory of the device"
            ) from error
        return StepOutputs(logits, new)

    def _fetch(self, array: Untyped) -> State:
        """A copy of a result in the host's memory.

        `DeviceArray.to_host` gives a view that dies with the device's memory, or, on Vulkan, imports host
        memory that is not aligned as the driver demands.
        """
        if array.is_host_accessible:
            return np.array(array.to_host(), copy=True)
        rt = runtime()
        view = array._buffer_view  # no public way to the buffer
        source = view.get_buffer()
        staging = self._device.allocator.allocate_buffer(
            memory_type=int(rt.MemoryType.HOST_LOCAL | rt.MemoryType.DEVICE_VISIBLE),
            allowed_usage=int(rt.BufferUsage.TRANSFER_TARGET | rt.BufferUsage.MAPPING_SCOPED),
            allocation_size=source.byte_length(),
        )
        semaphore = self._device.create_semaphore(0)
        before, after = (rt.HalFence.create_at(semaphore, value) for value in (0, 1))
        self._device.queue_copy(source, staging, wait_semaphores=before, signal_semaphores=after)
        after.wait()
        mapped = staging.map()
        dtype = rt.HalElementType.map_to_dtype(view.element_type)
        return np.array(mapped.asarray(view.shape, dtype), copy=True)


def _brief(error: BaseException) -> str:
    """The first lines of a message that may hold a whole stack."""
    return " ".join(str(error).split())[:400] or type(error).__name__
