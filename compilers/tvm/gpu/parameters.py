"""Weights onto the GPU: as the canonical file has them, padded or widened only where that is needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.tvm.common.weights import AnyArray
from compilers.tvm.gpu.driver import DeviceMemory, Driver
from compilers.tvm.gpu.plan import GpuParameter
from registry.errors import LoadError


def upload_parameter(
    parameter: GpuParameter, weights: Mapping[str, AnyArray], driver: Driver
) -> DeviceMemory:
    """A buffer with a parameter's tensors one behind the other.

    Raises:
        LoadError: Weights and plan do not belong together, or the GPU has not so much memory.
    """
    dtype = np.dtype(np.uint8 if parameter.dtype in ("int8", "int4") else parameter.dtype)
    count = parameter.rows * parameter.columns
    size_bytes = count // 2 if parameter.dtype == "int4" else count * dtype.itemsize
    memory = driver.allocate(size_bytes)
    if not parameter.sources:
        driver.upload(memory, np.zeros(count, dtype))
        return memory
    offset = 0
    for name in parameter.sources:
        part = _part(weights[name], parameter, dtype)
        if offset + part.nbytes > size_bytes:
            break
        driver.upload(memory, part, offset_bytes=offset)
        offset += part.nbytes
    if offset != size_bytes:
        raise LoadError(
            f"{list(parameter.sources)} do not have {size_bytes} bytes",
            hint="weights and library do not belong together",
        )
    return memory


def _part(array: AnyArray, parameter: GpuParameter, dtype: np.dtype[Any]) -> NDArray[Any]:
    if parameter.rows == 1 or parameter.dtype in ("int8", "int4"):
        return array.astype(dtype, copy=False)
    short = parameter.columns - array.shape[1]
    return np.pad(array.astype(dtype, copy=False), ((0, 0), (0, short))) if short > 0 else array
