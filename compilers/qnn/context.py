"""Reading Qualcomm's HTP context binaries.

Their form is Qualcomm's own and undocumented. Two things are read that every binary of QNN 2.51 has: a head
that says where its last part ends, and in each graph the compiler's own options, with the architecture that
it generated code for. What the compiler was asked for is not believed: an `htp_arch` that does not belong to
the `soc_model` loses against it in silence.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from mmap import mmap

HEAD = bytes.fromhex("0000000200000003")
_OPTIONS = re.compile(rb";soc_type=(?P<soc>[\w-]+);arch=(?P<arch>[0-9]+);")


@dataclass(frozen=True, slots=True)
class Context:
    """What a context binary says of itself."""

    architectures: tuple[str, ...]
    """`v73`: one per architecture that a graph in it was compiled for."""
    chips: tuple[str, ...]
    """Qualcomm's names of the chips."""
    complaint: str = ""


def read_context(data: bytes | mmap) -> Context:
    """What a context binary says of itself."""
    graphs = list(_OPTIONS.finditer(data))
    architectures = tuple(sorted({f"v{match['arch'].decode()}" for match in graphs}))
    chips = tuple(sorted({match["soc"].decode() for match in graphs}))
    if len(data) < 40 or data[:8] != HEAD:
        return Context(architectures, chips, "does not begin like a QNN context binary")
    begin, size = struct.unpack_from("<QQ", data, 24)
    if begin + size > len(data):
        return Context(architectures, chips, f"is cut short: {len(data)} of {begin + size} bytes")
    return Context(architectures, chips, "" if graphs else "holds no graph for the HTP")
