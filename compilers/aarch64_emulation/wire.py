"""Messages between a session's proxy and the emulated process: a JSON object, then arrays of float32.

Both sides are of this machine's byte order, which QEMU's AArch64 shares: little-endian.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from compilers.runtime import FloatArray

MAX_HEAD_BYTES = 1 << 26
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class WireMessage:
    """What is said in one direction."""

    body: Mapping[str, Any]  # Any: JSON, whose form each operation knows
    arrays: tuple[FloatArray, ...] = field(default=())


def write_message(stream: BinaryIO, body: Mapping[str, Any], arrays: Sequence[FloatArray] = ()) -> None:
    """Send a message."""
    head = json.dumps({"body": body, "shapes": [list(array.shape) for array in arrays]}).encode()
    stream.write(_LENGTH.pack(len(head)) + head)
    for array in arrays:
        stream.write(np.ascontiguousarray(array, dtype="<f4").tobytes())
    stream.flush()


def read_message(stream: BinaryIO) -> WireMessage:
    """Receive a message.

    Raises:
        EOFError: The other side is gone.
        ValueError: It is no message.
    """
    (length,) = _LENGTH.unpack(_exactly(stream, _LENGTH.size))
    if length > MAX_HEAD_BYTES:
        raise ValueError(f"a message's head of {length} bytes")
    head = json.loads(_exactly(stream, length))
    arrays = []
    for shape in head["shapes"]:
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(_exactly(stream, 4 * count), "<f4").reshape(shape).astype(np.float32))
    return WireMessage(head["body"], tuple(arrays))


def _exactly(stream: BinaryIO, count: int) -> bytes:
    parts = []
    while count:
        part = stream.read(count)
        if not part:
            raise EOFError("the other side closed the pipe")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
