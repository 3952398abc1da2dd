"""Opening a compiled library on a node: TVM's C++ runtime, without TVM's Python package.

`import tvm` loads the compiler (260 MB, seconds). A node needs `libtvm_runtime.so` (3 MB) and the function
interface `tvm_ffi` alone; of the package only its place is looked up.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import os
import struct
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

from compilers.installed import required_version
from registry.errors import LoadError, ToolchainMissingError

PACKAGES = {"apache-tvm": "==0.27.*", "apache-tvm-ffi": "==0.1.14.*"}
"""Distributions, and the versions that the kernels and the session are written for."""
RUNTIME_LIBRARY = "libtvm_runtime.so"
CPU_DEVICE, POOLED_ALLOCATOR = 1, 2
"""DLPack's number of the CPU; the virtual machine's allocator that keeps memory between calls."""
MACHINES = {"x86_64": 62, "aarch64": 183}
"""ELF's machine numbers."""
Function = Any
"""A compiled function; tvm_ffi's types say nothing about its arguments."""
_CALLER = threading.local()


class Library:
    """A loaded library: its compiled functions by name."""

    def __init__(self, path: Path) -> None:
        """Open a library.

        Args:
            path: A shared library made by `compilers/tvm/cpu/lower.py`.

        Raises:
            LoadError: It is damaged, or of another machine or version.
            ToolchainMissingError: The runtime is not installed.
        """
        check_elf(path)
        ffi = load_runtime()
        try:
            module = ffi.load_module(str(path))
            self._machine = module.get_function("vm_load_executable", query_imports=True)()
            self._machine["vm_initialization"](CPU_DEVICE, 0, POOLED_ALLOCATOR)
        except (RuntimeError, AttributeError, ValueError, TypeError, OSError) as error:
            raise LoadError(
                f"the TVM runtime cannot open `{path}`: {_first_line(error)}",
                hint="the library was built by another version of TVM, or is damaged; build or pull it again",
            ) from error
        self._module = module
        self._path = path

    def function(self, name: str) -> Function:
        """A compiled function.

        Raises:
            LoadError: The library has none of that name.
        """
        for module, imports in ((self._machine, False), (self._module, True)):
            try:
                return module.get_function(name, query_imports=imports)
            except (AttributeError, RuntimeError, ValueError):
                continue
        raise LoadError(
            f"`{self._path}` has no function `{name}`",
            hint="library and plan do not belong together; build again",
        )


def installed_version() -> str:
    """Versions of TVM and of its function interface, without importing them.

    Raises:
        ToolchainMissingError: One of them is not installed, or in a version that does not work.
    """
    tvm, ffi = (required_version(name, versions=known, extra="serve") for name, known in PACKAGES.items())
    return f"{tvm}+ffi{ffi}"


@functools.cache
def load_runtime() -> ModuleType:
    """`tvm_ffi`, with TVM's runtime library loaded into the process.

    Raises:
        ToolchainMissingError: One of them is not installed.
    """
    # tvm_ffi would import torch, where it is installed, to speed up an exchange that is not used here.
    os.environ.setdefault("TVM_FFI_DISABLE_TORCH_C_DLPACK", "1")
    # TVM would pin its threads, and the one that calls it, to cores that others may use as well.
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    # TVM would take half of the cores on x86, whether or not they are hyper-threads. Each calling thread has
    # a pool of its own, made with this many workers at its first use; `use_threads` says how many work.
    os.environ["TVM_NUM_THREADS"] = str(os.cpu_count() or 1)
    try:
        import tvm_ffi
    except ImportError as error:
        raise ToolchainMissingError(
            "`apache-tvm-ffi` is not installed", hint="install `rung[serve]`"
        ) from error
    if "tvm" not in sys.modules:
        found = importlib.util.find_spec("tvm")
        folders = [] if found is None else [Path(p) / "lib" for p in found.submodule_search_locations or ()]
        paths = [folder / RUNTIME_LIBRARY for folder in folders if (folder / RUNTIME_LIBRARY).is_file()]
        if not paths:
            raise ToolchainMissingError("`apache-tvm` is not installed", hint="install `rung[serve]`")
        try:
            ctypes.CDLL(str(paths[0]), ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise ToolchainMissingError(
                f"`{paths[0]}` cannot be loaded: {error}", hint="install `rung[serve]` again"
            ) from error
    module: ModuleType = tvm_ffi
    return module


def use_threads(threads: int) -> None:
    """Let the calling thread's kernels run on `threads` threads, at most as many as there are cores.

    TVM keeps one pool for each thread that calls it, so a session says this in the thread that runs it.
    """
    if getattr(_CALLER, "threads", None) != threads:
        load_runtime().get_global_func("runtime.config_threadpool")(1, threads)
        _CALLER.threads = threads


def check_elf(path: Path) -> None:
    """Refuse what the loader would crash on: a file that is no shared library, or is cut short.

    Raises:
        LoadError: It is none.
    """
    hint = "pull or build the artifact again"
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(64)
            if len(head) < 64 or head[:4] != b"\x7fELF" or head[4:6] != b"\x02\x01":
                raise LoadError(f"`{path}` is not a shared library", hint=hint)
            kind, machine = struct.unpack_from("<HH", head, 16)
            program, sections = struct.unpack_from("<QQ", head, 32)
            program_size, program_count, section_size, section_count = struct.unpack_from("<HHHH", head, 54)
            stream.seek(program)
            segments = stream.read(program_size * program_count)
    except OSError as error:
        raise LoadError(f"cannot read `{path}`: {error}", hint=hint) from error
    if kind != 3 or machine != MACHINES.get(os.uname().machine):
        raise LoadError(f"`{path}` is not a shared library for {os.uname().machine}", hint=hint)
    ends = [sections + section_size * section_count, program + program_size * program_count]
    if program_size == 56 and len(segments) == program_size * program_count:
        for index in range(program_count):
            offset, _, _, file_size = struct.unpack_from("<QQQQ", segments, index * program_size + 8)
            ends.append(offset + file_size)
    if max(ends) > size:
        raise LoadError(f"`{path}` is cut short: {size} of {max(ends)} bytes", hint=hint)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
