"""Memory of a CPU session: aligned arrays, and parameters that are packed from the weights file.

Weights are packed once, when an artifact is loaded, by functions of its own library.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.tvm.common.library import Library, load_runtime
from compilers.tvm.common.weights import AnyArray
from compilers.tvm.cpu.plan import Fill, Parameter
from registry.errors import LoadError

ALIGNMENT_BYTES = 64
"""What compiled code expects of the address of parameters and caches."""


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Zeros at an address that is a multiple of `ALIGNMENT_BYTES`."""
    size = int(np.prod(shape)) * dtype.itemsize
    memory = np.zeros(size + ALIGNMENT_BYTES, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT_BYTES
    return memory[start : start + size].view(dtype).reshape(shape)


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
