"""Reading safetensors files without a framework: a checked header, and a scan for NaN and infinity.

The format: eight bytes with the header's length, a JSON header, one gapless buffer
(https://github.com/huggingface/safetensors#format). A file that passes `read_header` is accepted by every
reader of the format; a refusal says which tensor is wrong and how.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeGuard

import numpy as np
from numpy.typing import NDArray

from registry.errors import CheckpointError

HEADER_LIMIT_BYTES: Final = 100_000_000
"""As in the reference implementation."""
CHUNK_ELEMENTS: Final = 1 << 20
ITEM_BITS: Mapping[str, int] = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64, "I64": 64, "I32": 32, "I16": 16, "I8": 8,
    "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Element type → size in bits."""
_EXPONENTS: Mapping[str, tuple[type[np.unsignedinteger[Any]], int]] = {  # Any: a bit width, all are used
    "F64": (np.uint64, 0x7FF0_0000_0000_0000),
    "F32": (np.uint32, 0x7F80_0000),
    "F16": (np.uint16, 0x7C00),
    "BF16": (np.uint16, 0x7F80),
    "F8_E5M2": (np.uint8, 0x7C),
    "F8_E4M3": (np.uint8, 0x7F),  # has no infinity; only all ones is NaN
    "C64": (np.uint32, 0x7F80_0000),
}
"""Floating-point type → its unsigned integer, and the bits that are all ones in NaN and infinity."""
_AGAIN = "download or save the file again"


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file."""

    dtype: str
    """As safetensors names it: `F32`, `BF16` …"""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""
    size_bytes: int

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Path) -> dict[str, TensorEntry]:
    """The tensors of a safetensors file, by name.

    Raises:
        CheckpointError: The file is missing, truncated, or not a well-formed safetensors file.
    """
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(0)
            prefix = stream.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
            if len(prefix) < 8 or 8 + length > size:
                _refuse(path, f"is truncated: {size} bytes, its header alone would end at byte {8 + length}")
            if length > HEADER_LIMIT_BYTES:
                _refuse(
                    path, f"has a header of {length} bytes, above the format's limit of {HEADER_LIMIT_BYTES}"
                )
            header = _parse(path, stream.read(length))
    except OSError as error:
        raise CheckpointError(f"cannot read `{path}`: {error.strerror}", hint="check the path") from error
    tensors = {name: _tensor(path, name, about, base=8 + length) for name, about in header.items()}
    _check_layout(path, tensors, base=8 + length, size=size)
    return tensors


def first_non_finite(path: Path, tensors: Mapping[str, TensorEntry]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None if all are finite.

    Reads the file through the page cache in chunks, so memory use does not grow with the file.
    """
    ordered = sorted(tensors.items(), key=lambda item: item[1].start)
    with path.open("rb") as stream:
        for name, tensor in ordered:
            if tensor.dtype not in _EXPONENTS:
                continue
            kind, mask = _EXPONENTS[tensor.dtype]
            stream.seek(tensor.start)
            left = tensor.size_bytes
            while left:
                data = stream.read(min(left, CHUNK_ELEMENTS * np.dtype(kind).itemsize))
                if not data:
                    _refuse(path, f"ends inside tensor `{name}`")
                left -= len(data)
                if _has_non_finite(np.frombuffer(data, dtype=kind), mask=mask):
                    return name
    return None


def _has_non_finite(bits: NDArray[Any], *, mask: int) -> bool:  # Any: one of four unsigned types
    ones = bits.dtype.type(mask)
    return bool(((bits & ones) == ones).any())


def _parse(path: Path, data: bytes) -> dict[str, Any]:  # Any: JSON
    try:
        header = json.loads(data.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        _refuse(path, f"has a header that is not JSON: {str(error)[:120]}")
    if not isinstance(header, dict):
        _refuse(path, f"has a header that is a JSON {type(header).__name__}, not an object")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        _refuse(path, "has a __metadata__ that does not map strings to strings")
    if not header:
        _refuse(path, "holds no tensor")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:  # Any: JSON
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name appears twice")
    return found


def _tensor(path: Path, name: str, about: object, *, base: int) -> TensorEntry:
    if not isinstance(about, dict) or about.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(path, f"describes tensor `{name}` without exactly dtype, shape and data_offsets")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    if dtype not in ITEM_BITS:
        _refuse(path, f"gives tensor `{name}` the unknown type {dtype!r}")
    if not _are_sizes(shape):
        _refuse(path, f"gives tensor `{name}` the shape {str(shape)[:60]}")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        _refuse(path, f"gives tensor `{name}` the offsets {str(offsets)[:60]}")
    tensor = TensorEntry(dtype, tuple(shape), base + offsets[0], offsets[1] - offsets[0])
    if tensor.elements * ITEM_BITS[dtype] != tensor.size_bytes * 8:
        _refuse(path, f"stores tensor `{name}` ({dtype}, shape {shape}) in {tensor.size_bytes} bytes")
    return tensor


def _are_sizes(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 1 << 63 for one in value)


def _check_layout(path: Path, tensors: Mapping[str, TensorEntry], *, base: int, size: int) -> None:
    """Refuse overlaps, gaps, a truncated and an overlong buffer."""
    position, previous = base, "the header"
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].size_bytes)):
        if tensor.start < position:
            _refuse(path, f"stores tensor `{name}` over {previous}")
        if tensor.start > position:
            _refuse(path, f"has a gap of {tensor.start - position} bytes before tensor `{name}`")
        position, previous = tensor.start + tensor.size_bytes, f"`{name}`"
    if position > size:
        _refuse(path, f"is truncated: {size} bytes of {position}")
    if position < size:
        _refuse(path, f"has {size - position} bytes after its last tensor")


def _refuse(path: Path, what: str) -> NoReturn:
    raise CheckpointError(f"`{path}` {what}", hint=_AGAIN)
