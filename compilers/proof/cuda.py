"""Reading NVIDIA code: fatbins and cubins with `cuobjdump`, PTX by its own directives.

Without cuobjdump the cubins in a fatbin are found as ELF images, as long as they are not compressed.
"""

from __future__ import annotations

import re
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compilers.proof.carve import signatures
from compilers.proof.elf import Image, read_elf
from compilers.proof.tool import Tool, find_tool
from registry.errors import CorruptError

HEADER_BYTES = 16
_LISTED = re.compile(
    r"^(?P<kind>ELF|PTX) file\s+\d+:\s+\S*?\.(?P<arch>(?:sm|compute)_\d+[af]?)\.(?:cubin|ptx)", re.M
)
_PTX = re.compile(rb"\.version\s+(?P<version>[0-9.]+)\s+\.target\s+(?P<target>sm_[0-9]+[af]?)")
_ENTRY = re.compile(rb"\.entry\s+([\w$]+)")


@dataclass(frozen=True, slots=True)
class Fatbin:
    """What a fatbin holds."""

    size_bytes: int
    machine_code: tuple[str, ...]
    """Architectures of its cubins."""
    ptx: tuple[str, ...]
    """Architectures of its PTX, which a driver compiles."""
    kernels: tuple[str, ...]
    """Those that all of its cubins have."""
    tool: str
    complaint: str = ""
    """Why it could not be read as a whole."""


@dataclass(frozen=True, slots=True)
class Ptx:
    """What PTX text says of itself."""

    size_bytes: int
    version: str
    target: str
    kernels: tuple[str, ...]


def cubin_architecture(image: Image) -> str:
    """The architecture in a cubin's flags.

    From version 8 of the ABI on (CUDA 13) it stands in the second byte, before in the first
    (llvm/include/llvm/BinaryFormat/ELF.h, `EF_CUDA_SM`).
    """
    number = image.flags >> 8 & 0xFF if image.abi >= 8 else image.flags & 0xFF
    return f"sm_{number}"


def read_fatbin(data: bytes, *, cuobjdump: Tool | None, reader: str) -> Fatbin:
    """What a fatbin holds; `data` begins with it.

    Args:
        data: Bytes from the fatbin's magic number on.
        cuobjdump: NVIDIA's tool, where it is there.
        reader: Name of what reads the cubins.
    """
    size = HEADER_BYTES
    if len(data) >= HEADER_BYTES:
        size += struct.unpack_from("<Q", data, 8)[0]
    if size > len(data):
        return Fatbin(len(data), (), (), (), reader, f"is cut short: {len(data)} of {size} bytes")
    body = data[:size]
    if cuobjdump is None:
        images = _images(body)
        complaint = "" if images else "shows no cubin without cuobjdump: it is compressed or holds none"
        return Fatbin(size, *_facts(images), f"{reader} (no cuobjdump)", complaint)
    with tempfile.TemporaryDirectory(prefix="rung-proof-") as name:
        folder = Path(name)
        (folder / "code.fatbin").write_bytes(body)
        listing = cuobjdump.run(["-all", "-lelf", "-lptx", "code.fatbin"], folder=folder)
        if listing is None:
            return Fatbin(size, (), (), (), cuobjdump.name, "cannot be read by cuobjdump")
        listed = [(match["kind"], match["arch"]) for match in _LISTED.finditer(listing)]
        cuobjdump.run(["-all", "-xelf", "all", "code.fatbin"], folder=folder)
        images = []
        for path in sorted(folder.glob("*.cubin")):
            try:
                images.append(read_elf(path.read_bytes()))
            except CorruptError as error:
                return Fatbin(size, (), (), (), cuobjdump.name, f"holds a cubin that is {error.message}")
    ptx = tuple(sorted({arch for kind, arch in listed if kind == "PTX"}))
    said = tuple(sorted({arch for kind, arch in listed if kind == "ELF"}))
    flags, _, kernels = _facts(images)
    differs = {arch.rstrip("af") for arch in said} != set(flags)
    complaint = f"lists {_names(said)}, but its cubins' flags say {_names(flags)}" if differs else ""
    return Fatbin(size, said, ptx, kernels, f"{cuobjdump.name}, {reader}", complaint)


def read_ptx(data: bytes) -> Ptx | None:
    """What PTX text says of itself; `data` begins at its `.version`, and text ends at the first zero byte."""
    match = _PTX.match(data)
    if match is None:
        return None
    end = data.find(b"\0")
    text = data if end < 0 else data[:end]
    kernels = tuple(sorted({name.decode("ascii", "replace") for name in _ENTRY.findall(text)}))
    return Ptx(len(text), match["version"].decode(), match["target"].decode(), kernels)


def find_cuobjdump() -> Tool | None:
    """NVIDIA's cuobjdump: on PATH, or of the PyPI package `nvidia-cuda-cuobjdump`."""
    return find_tool("cuobjdump")


def _images(body: bytes) -> list[Image]:
    images = []
    for found in signatures(body):
        if found.kind == "elf":
            try:
                images.append(read_elf(body[found.offset :]))
            except CorruptError:
                continue
    return images


def _facts(images: list[Image]) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    cubins = [image for image in images if image.machine == "EM_CUDA"]
    architectures = tuple(sorted({cubin_architecture(image) for image in cubins}))
    kernels = tuple(sorted(set.intersection(*(set(image.exports) for image in cubins)) if cubins else ()))
    return architectures, (), kernels


def _names(architectures: tuple[str, ...]) -> str:
    return ", ".join(architectures) or "none"
