"""The canonical weights file: its tensors' forms for the build side, their bytes packed on the node."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from compilers.tvm.common.forms import TensorForm
from compilers.tvm.common.library import Library, load_runtime
from compilers.tvm.cpu.cache import aligned_zeros
from compilers.tvm.cpu.plan import Fill, LibraryPlan, Parameter
from registry.errors import CorruptError, LoadError

if TYPE_CHECKING:
    from compilers.tvm.gpu.plan import GpuPlan

MAX_HEADER_BYTES = 1 << 27
ITEMS: Mapping[str, type[np.generic]] = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I8": np.int8}

AnyArray = NDArray[Any]  # Any: whichever of the types above


def read_forms(path: Path) -> dict[str, TensorForm]:
    """Types and shapes of a safetensors file's tensors, from its header alone.

    Raises:
        CorruptError: It cannot be read.
    """
    return {name: form for name, (form, _) in _read_header(path).items()}


def open_weights(path: Path, plan: LibraryPlan | GpuPlan) -> dict[str, AnyArray]:
    """The tensors of a weights file, mapped into memory.

    Raises:
        LoadError: The library was compiled for other tensors, or the file is damaged.
    """
    try:
        header = _read_header(path)
    except CorruptError as error:
        raise LoadError(error.message, hint="pull or build the artifact again") from error
    for name, expected in plan.tensors.items():
        if name not in header:
            raise LoadError(
                f"`{path}` has no tensor `{name}`", hint="weights and library do not belong together"
            )
        found = header[name][0]
        if found != expected:
            raise LoadError(
                f"`{path}`: `{name}` is {found.dtype} {list(found.shape)}, the library was compiled for "
                f"{expected.dtype} {list(expected.shape)}",
                hint="weights and library do not belong together",
            )
    # Copy on write: tensors must be writable to be passed on, and nobody writes them.
    data: AnyArray = np.memmap(path, np.uint8, mode="c")
    return {
        name: data[begin : begin + _size_bytes(form)].view(ITEMS[form.dtype]).reshape(form.shape)
        for name, (form, begin) in header.items()
        if name in plan.tensors
    }


def make_parameter(parameter: Parameter, weights: Mapping[str, AnyArray], library: Library) -> AnyArray:
    """One tensor that compiled functions take: packed, constant, or a tensor of the file itself.

    Raises:
        LoadError: Library and weights do not belong together.
    """
    if parameter.alias is not None:
        return weights[parameter.alias]
    array = aligned_zeros(parameter.shape, np.dtype(parameter.dtype))
    if parameter.values:
        array[...] = np.asarray(parameter.values, array.dtype).reshape(parameter.shape)
    for fill in parameter.fills:
        _pack(fill, array, weights, library)
    return array


def _pack(fill: Fill, array: AnyArray, weights: Mapping[str, AnyArray], library: Library) -> None:
    ffi = load_runtime()
    try:
        sources = [ffi.from_dlpack(weights[name]) for name in fill.sources]
        library.function(fill.function)(*sources, ffi.from_dlpack(array), *fill.integers)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        raise LoadError(
            f"packing {list(fill.sources)} failed: {error}", hint="weights and library do not belong together"
        ) from error


def _read_header(path: Path) -> dict[str, tuple[TensorForm, int]]:
    """Form and first byte of each tensor, all of them inside the file."""
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            if length > min(size, MAX_HEADER_BYTES):
                raise ValueError(f"its header would have {length} bytes")
            document: dict[str, Any] = json.loads(stream.read(length))  # Any: parsed JSON
        found: dict[str, tuple[TensorForm, int]] = {}
        for name, entry in document.items():
            if name == "__metadata__":
                continue
            form = TensorForm(dtype=entry["dtype"], shape=tuple(entry["shape"]))
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            if form.dtype not in ITEMS:
                raise ValueError(f"`{name}` is {form.dtype}")
            if not 8 + length <= begin <= end <= size or end - begin != _size_bytes(form):
                raise ValueError(f"`{name}` lies in bytes {begin} to {end} of {size}")
            found[name] = (form, begin)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise CorruptError(
            f"cannot read the weights `{path}`: {error}", hint="quantize the checkpoint again"
        ) from error
    return found


def _size_bytes(form: TensorForm) -> int:
    return math.prod(form.shape) * np.dtype(ITEMS[form.dtype]).itemsize
