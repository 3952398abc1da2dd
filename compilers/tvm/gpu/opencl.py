"""OpenCL as a stand-in for a GPU: kernels as OpenCL C, compiled by the machine's own OpenCL implementation.

Only for rehearsals (`rehearse.py`); PoCL (https://portablecl.org) is one that runs on any CPU. Functions are
those of https://registry.khronos.org/OpenCL.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from compilers.tvm.gpu.driver import AnyArray, DeviceMemory, Handle, Start, Untyped
from registry.errors import LoadError

_ALL_DEVICES = 0xFFFFFFFF
_DEVICE_NAME, _DEVICE_VERSION = 0x102B, 0x102F
_GLOBAL_MEMORY = 0x101F
_BUILD_LOG = 0x1183
_READ_WRITE = 1
_OPTIONS = b"-cl-std=CL1.2"
_MAKERS = ("Context", "CommandQueue", "ProgramWithSource", "Kernel", "Buffer")


class OpenClDriver:
    """An OpenCL device, as a `Driver` (driver.py) whose machine code is OpenCL C."""

    def __init__(self, library: ctypes.CDLL, device: Handle) -> None:
        self._library = library
        for name in _MAKERS:
            getattr(library, f"clCreate{name}").restype = ctypes.c_void_p
        self._device = device
        self.chip = self._describe(_DEVICE_NAME)
        self.architecture = "opencl"
        self.version = self._describe(_DEVICE_VERSION)
        memory = ctypes.c_uint64()
        _check(
            "clGetDeviceInfo",
            library.clGetDeviceInfo(
                ctypes.c_void_p(device), _GLOBAL_MEMORY, ctypes.sizeof(memory), ctypes.byref(memory), None
            ),
        )
        self.memory_bytes = memory.value
        status = ctypes.c_int()
        devices = (ctypes.c_void_p * 1)(device)
        self._context = ctypes.c_void_p(
            library.clCreateContext(None, 1, devices, None, None, ctypes.byref(status))
        )
        _check("clCreateContext", status.value)
        self._queue = ctypes.c_void_p(
            library.clCreateCommandQueue(
                self._context, ctypes.c_void_p(device), ctypes.c_uint64(0), ctypes.byref(status)
            )
        )
        _check("clCreateCommandQueue", status.value)

    def use(self) -> None:
        """Nothing: OpenCL knows no current device."""

    def load(self, code: bytes, names: Sequence[str]) -> Mapping[str, Handle]:
        """The kernels of OpenCL C by name.

        Raises:
            LoadError: It does not compile, or lacks one of them.
        """
        status = ctypes.c_int()
        text = ctypes.c_char_p(code)
        length = ctypes.c_size_t(len(code))
        program = ctypes.c_void_p(
            self._library.clCreateProgramWithSource(
                self._context, 1, ctypes.byref(text), ctypes.byref(length), ctypes.byref(status)
            )
        )
        _check("clCreateProgramWithSource", status.value)
        if self._library.clBuildProgram(program, 0, None, _OPTIONS, None, None) != 0:
            log = ctypes.create_string_buffer(1 << 16)
            self._library.clGetProgramBuildInfo(
                program, ctypes.c_void_p(self._device), _BUILD_LOG, ctypes.c_size_t(len(log)), log, None
            )
            raise LoadError(
                f"OpenCL cannot compile the kernels: {log.value.decode(errors='replace')[:2000]}",
                hint="see the log; try another OpenCL implementation",
            )
        found: dict[str, Handle] = {}
        for name in names:
            kernel = self._library.clCreateKernel(program, name.encode(), ctypes.byref(status))
            _check(f"clCreateKernel({name})", status.value)
            found[name] = ctypes.c_void_p(kernel)
        return found

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Memory of undefined content.

        Raises:
            LoadError: There is not so much.
        """
        status = ctypes.c_int()
        handle = ctypes.c_void_p(
            self._library.clCreateBuffer(
                self._context, ctypes.c_uint64(_READ_WRITE), ctypes.c_size_t(max(16, size_bytes)), None,
                ctypes.byref(status),
            )
        )  # fmt: skip
        _check("clCreateBuffer", status.value)
        memory = DeviceMemory(handle, size_bytes)
        weakref.finalize(memory, self._library.clReleaseMemObject, handle)
        return memory

    def upload(self, target: DeviceMemory, array: AnyArray, *, offset_bytes: int = 0) -> None:
        """Copy to the device."""
        data = np.ascontiguousarray(array)
        status = self._library.clEnqueueWriteBuffer(
            self._queue, target.handle, 1, ctypes.c_size_t(offset_bytes), ctypes.c_size_t(data.nbytes),
            ctypes.c_void_p(data.ctypes.data), 0, None, None,
        )  # fmt: skip
        _check("clEnqueueWriteBuffer", status)

    def download(self, source: DeviceMemory, array: AnyArray) -> None:
        """Copy from the device, behind all launches so far."""
        status = self._library.clEnqueueReadBuffer(
            self._queue, source.handle, 1, ctypes.c_size_t(0), ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(array.ctypes.data), 0, None, None,
        )  # fmt: skip
        _check("clEnqueueReadBuffer", status)

    def copy(
        self, source: DeviceMemory, target: DeviceMemory, *, offsets: tuple[int, int], size_bytes: int
    ) -> None:
        """Copy on the device."""
        status = self._library.clEnqueueCopyBuffer(
            self._queue, source.handle, target.handle, ctypes.c_size_t(offsets[0]),
            ctypes.c_size_t(offsets[1]), ctypes.c_size_t(size_bytes), 0, None, None,
        )  # fmt: skip
        _check("clEnqueueCopyBuffer", status)

    def prepare(
        self, kernel: Handle, *, grid: tuple[int, int], threads: int, arguments: Sequence[DeviceMemory | int]
    ) -> Start:
        """What starts a kernel, behind all that was started before."""
        values = [a.handle if isinstance(a, DeviceMemory) else ctypes.c_int32(a) for a in arguments]
        work = (ctypes.c_size_t * 2)(grid[0] * threads, grid[1])
        group = (ctypes.c_size_t * 2)(threads, 1)

        def start() -> None:
            for index, value in enumerate(values):
                size = ctypes.c_size_t(ctypes.sizeof(value))
                _check(
                    "clSetKernelArg", self._library.clSetKernelArg(kernel, index, size, ctypes.byref(value))
                )
            status = self._library.clEnqueueNDRangeKernel(
                self._queue, kernel, 2, None, work, group, 0, None, None
            )
            _check("clEnqueueNDRangeKernel", status)

        return start

    def _describe(self, what: int) -> str:
        text = ctypes.create_string_buffer(256)
        status = self._library.clGetDeviceInfo(
            ctypes.c_void_p(self._device), what, ctypes.c_size_t(len(text)), text, None
        )
        _check("clGetDeviceInfo", status)
        return text.value.decode(errors="replace")


def open_opencl() -> OpenClDriver | None:
    """The first OpenCL device of this machine; None without one."""
    name = ctypes.util.find_library("OpenCL") or "libOpenCL.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError:
        return None
    platforms = (ctypes.c_void_p * 8)()
    count = ctypes.c_uint()
    if library.clGetPlatformIDs(8, platforms, ctypes.byref(count)) != 0:
        return None
    for platform in platforms[: min(count.value, 8)]:
        devices = (ctypes.c_void_p * 1)()
        found = ctypes.c_uint()
        status = library.clGetDeviceIDs(
            ctypes.c_void_p(platform), ctypes.c_uint64(_ALL_DEVICES), 1, devices, ctypes.byref(found)
        )
        if status == 0 and found.value:
            return OpenClDriver(library, devices[0])
    return None


def _check(name: str, status: Untyped) -> None:
    if status != 0:
        raise LoadError(f"OpenCL: `{name}` failed: {status}", hint="see cl.h for the number's meaning")
