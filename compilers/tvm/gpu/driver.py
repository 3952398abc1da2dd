"""What a session needs of a GPU: memory, copies, launches; for NVIDIA through libcuda, for AMD through HIP.

Both interfaces are C functions of the driver, called through ctypes: a node needs no CUDA toolkit, no
runtime library and no TVM. NVIDIA's is described in https://docs.nvidia.com/cuda/cuda-driver-api, AMD's in
https://rocm.docs.amd.com/projects/HIP; they have the same functions under other names.
"""

from __future__ import annotations

import ctypes
import functools
import re
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from registry.errors import LoadError

AnyArray = NDArray[Any]  # Any: whichever type is copied
Handle: TypeAlias = Any
"""A number or object of the driver's own."""
Untyped: TypeAlias = Any
"""What ctypes takes and gives."""
Start = Callable[[], None]
"""Starts one kernel."""


class DeviceMemory:
    """A piece of a GPU's memory, freed when it is forgotten."""

    def __init__(self, handle: Handle, size_bytes: int) -> None:
        self.handle = handle
        self.size_bytes = size_bytes


class Driver(Protocol):
    """One GPU."""

    chip: str
    """Its own name."""
    architecture: str
    """`sm_90`, `gfx942`; of a stand-in its platform's name."""
    version: str
    """Of the interface: `CUDA 13000`; the driver has another version (`compilers/tvm/devices.py`)."""
    memory_bytes: int
    """All of its memory."""

    def use(self) -> None:
        """Make the calling thread speak to this GPU."""
        ...

    def load(self, code: bytes, names: Sequence[str]) -> Mapping[str, Handle]:
        """The kernels of machine code by name.

        Raises:
            LoadError: The code is not for this GPU, or lacks one of them.
        """
        ...

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Memory of undefined content.

        Raises:
            LoadError: There is not so much.
        """
        ...

    def upload(self, target: DeviceMemory, array: AnyArray, *, offset_bytes: int = 0) -> None:
        """Copy to the GPU."""
        ...

    def download(self, source: DeviceMemory, array: AnyArray) -> None:
        """Copy from the GPU, behind all launches so far."""
        ...

    def copy(
        self, source: DeviceMemory, target: DeviceMemory, *, offsets: tuple[int, int], size_bytes: int
    ) -> None:
        """Copy on the GPU; `offsets` are of source and target, in bytes; they must not overlap."""
        ...

    def prepare(
        self, kernel: Handle, *, grid: tuple[int, int], threads: int, arguments: Sequence[DeviceMemory | int]
    ) -> Start:
        """What starts a kernel, behind all that was started before; integers are passed as int32.

        It may be called again and again, as long as the memory lives.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Names:
    """What functions are called."""

    library: str
    platform: str
    allocate: str
    free: str
    upload: str
    download: str
    copy: str
    load: str
    function: str
    launch: str
    version: str
    error: str


_CUDA = _Names(
    library="libcuda.so.1", platform="CUDA", allocate="cuMemAlloc_v2", free="cuMemFree_v2",
    upload="cuMemcpyHtoD_v2", download="cuMemcpyDtoH_v2", copy="cuMemcpyDtoD_v2",
    load="cuModuleLoadData", function="cuModuleGetFunction", launch="cuLaunchKernel",
    version="cuDriverGetVersion", error="cuGetErrorString",
)  # fmt: skip
_HIP = _Names(
    library="libamdhip64.so", platform="ROCm", allocate="hipMalloc", free="hipFree", upload="hipMemcpyHtoD",
    download="hipMemcpyDtoH", copy="hipMemcpyDtoD", load="hipModuleLoadData",
    function="hipModuleGetFunction", launch="hipModuleLaunchKernel", version="hipDriverGetVersion",
    error="hipGetErrorString",
)  # fmt: skip
_COMPUTE_MAJOR, _COMPUTE_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR."""
_KFD = Path("/sys/class/kfd/kfd/topology/nodes")
"""Where Linux describes AMD's GPUs."""


class _NativeDriver(ABC):
    """What both interfaces do alike."""

    chip = "unknown"
    architecture = "unknown"
    memory_bytes = 0

    def __init__(self, library: ctypes.CDLL, names: _Names) -> None:
        self._library = library
        self._names = names
        version = ctypes.c_int()
        self._call(names.version, ctypes.byref(version))
        self.version = f"{names.platform} {version.value}"

    @abstractmethod
    def use(self) -> None:
        """Make the calling thread speak to this GPU."""

    def load(self, code: bytes, names: Sequence[str]) -> Mapping[str, Handle]:
        """The kernels of machine code by name."""
        module = ctypes.c_void_p()
        self._call(self._names.load, ctypes.byref(module), ctypes.c_char_p(code))
        found: dict[str, Handle] = {}
        for name in names:
            function = ctypes.c_void_p()
            self._call(self._names.function, ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
            found[name] = function
        return found

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Memory of undefined content."""
        address = ctypes.c_void_p()
        self._call(self._names.allocate, ctypes.byref(address), ctypes.c_size_t(max(16, size_bytes)))
        memory = DeviceMemory(address, size_bytes)
        weakref.finalize(memory, self._free, address)
        return memory

    def upload(self, target: DeviceMemory, array: AnyArray, *, offset_bytes: int = 0) -> None:
        """Copy to the GPU."""
        data = np.ascontiguousarray(array)
        address = ctypes.c_void_p((target.handle.value or 0) + offset_bytes)
        self._call(self._names.upload, address, _address(data), ctypes.c_size_t(data.nbytes))

    def download(self, source: DeviceMemory, array: AnyArray) -> None:
        """Copy from the GPU, behind all launches so far."""
        self._call(self._names.download, _address(array), source.handle, ctypes.c_size_t(array.nbytes))

    def copy(
        self, source: DeviceMemory, target: DeviceMemory, *, offsets: tuple[int, int], size_bytes: int
    ) -> None:
        """Copy on the GPU."""
        begin, end = ((m.handle.value or 0) + o for m, o in zip((source, target), offsets, strict=True))
        self._call(
            self._names.copy, ctypes.c_void_p(end), ctypes.c_void_p(begin), ctypes.c_size_t(size_bytes)
        )

    def prepare(
        self, kernel: Handle, *, grid: tuple[int, int], threads: int, arguments: Sequence[DeviceMemory | int]
    ) -> Start:
        """What starts a kernel."""
        values = [a.handle if isinstance(a, DeviceMemory) else ctypes.c_int32(a) for a in arguments]
        places = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        sizes = [ctypes.c_uint(size) for size in (*grid, 1, threads, 1, 1, 0)]
        launch = functools.partial(self._function(self._names.launch), kernel, *sizes, None, places, None)

        def start(kept: Untyped = values) -> None:  # `places` points into the values
            status = launch()
            if status != 0:
                self._refuse(self._names.launch, status)

        return start

    def _free(self, address: Handle) -> None:
        with suppress(LoadError):  # the driver has gone, and the memory with it
            self.use()
            self._function(self._names.free)(address)

    def _call(self, name: str, *arguments: Untyped) -> None:
        status = self._function(name)(*arguments)
        if status != 0:
            self._refuse(name, status)

    def _refuse(self, name: str, status: int) -> NoReturn:
        raise LoadError(
            f"{self._names.platform}: `{name}` failed: {self._describe(status)}",
            hint="check the driver with the vendor's own tool, and how much memory the GPU has free",
        )

    def _function(self, name: str) -> Untyped:
        try:
            return getattr(self._library, name)
        except AttributeError as error:
            raise LoadError(
                f"`{self._names.library}` has no function `{name}`", hint="update the GPU's driver"
            ) from error

    def _describe(self, status: int) -> str:
        text = ctypes.c_char_p()
        if self._names is _HIP:
            function = self._function(self._names.error)
            function.restype = ctypes.c_char_p
            text = ctypes.c_char_p(function(status))
        else:
            self._function(self._names.error)(status, ctypes.byref(text))
        return f"{status} {(text.value or b'unknown').decode(errors='replace')}"


class CudaDriver(_NativeDriver):
    """An NVIDIA GPU."""

    def __init__(self, library: ctypes.CDLL, ordinal: int) -> None:
        super().__init__(library, _CUDA)
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuDeviceGet", ctypes.byref(device), ordinal)
        name = ctypes.create_string_buffer(256)
        self._call("cuDeviceGetName", name, len(name), device)
        self.chip = name.value.decode(errors="replace")
        numbers = []
        for attribute in (_COMPUTE_MAJOR, _COMPUTE_MINOR):
            value = ctypes.c_int()
            self._call("cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        self.architecture = "sm_{}{}".format(*numbers)
        memory = ctypes.c_size_t()
        self._call("cuDeviceTotalMem_v2", ctypes.byref(memory), device)
        self.memory_bytes = memory.value
        self._device, self._context = device, context

    def use(self) -> None:
        """Make the calling thread speak to this GPU."""
        if not self._context.value:
            self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._call("cuCtxSetCurrent", self._context)


class HipDriver(_NativeDriver):
    """An AMD GPU. Written after HIP's reference; it has not met a GPU yet."""

    def __init__(self, library: ctypes.CDLL, ordinal: int, architecture: str) -> None:
        super().__init__(library, _HIP)
        name = ctypes.create_string_buffer(256)
        self._call("hipDeviceGetName", name, len(name), ordinal)
        self.chip = name.value.decode(errors="replace")
        self.architecture = architecture
        memory = ctypes.c_size_t()
        self._call("hipDeviceTotalMem", ctypes.byref(memory), ordinal)
        self.memory_bytes = memory.value
        self._ordinal = ordinal

    def use(self) -> None:
        """Make the calling thread speak to this GPU."""
        self._call("hipSetDevice", self._ordinal)


def has_driver(kind: str) -> bool:
    """Whether the driver's library for a kind of GPU (`cuda`, `rocm`) can be loaded here."""
    try:
        ctypes.CDLL((_CUDA if kind == "cuda" else _HIP).library)
    except OSError:
        return False
    return True


def open_gpus(kind: str) -> list[Driver]:
    """The GPUs of a kind (`cuda`, `rocm`) on this machine, in the driver's order.

    Raises:
        LoadError: There is no driver, or it finds none.
    """
    names = _CUDA if kind == "cuda" else _HIP
    try:
        library = ctypes.CDLL(names.library)
    except OSError as error:
        raise LoadError(
            f"the {names.platform} driver library `{names.library}` is not there: {error}",
            hint="install the GPU's driver, or choose an artifact for another target",
        ) from error
    initialise, counting = (
        ("cuInit", "cuDeviceGetCount") if kind == "cuda" else ("hipInit", "hipGetDeviceCount")
    )
    count = ctypes.c_int()
    status = getattr(library, initialise)(0) or getattr(library, counting)(ctypes.byref(count))
    if status != 0 or count.value == 0:
        raise LoadError(
            f"the {names.platform} driver finds no GPU (status {status})",
            hint="check the driver with the vendor's own tool; containers must be given the GPU",
        )
    if kind == "cuda":
        return [CudaDriver(library, ordinal) for ordinal in range(count.value)]
    found = amd_architectures()
    return [
        HipDriver(library, ordinal, found[ordinal] if ordinal < len(found) else "unknown")
        for ordinal in range(count.value)
    ]


def amd_architectures(nodes: Path = _KFD) -> tuple[str, ...]:
    """Architectures of the AMD GPUs that Linux names, in its order, such as `gfx942`.

    The number 90402 is major 9, minor 4, stepping 2, the last two as hexadecimal digits in the name
    (https://docs.kernel.org/gpu/amdgpu, `gfx_target_version`).
    """
    found: list[str] = []
    for path in sorted(nodes.glob("*/properties"), key=lambda path: int(path.parent.name)):
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except OSError:
            continue
        version = re.search(r"^gfx_target_version (\d+)$", text, flags=re.MULTILINE)
        if version and int(version[1]):
            number = int(version[1])
            found.append(f"gfx{number // 10000}{number // 100 % 100:x}{number % 100:x}")
    return tuple(found)


def _address(array: AnyArray) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
