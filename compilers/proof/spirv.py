"""Reading SPIR-V modules: version word, entry points, and `spirv-val` where it is installed."""

from __future__ import annotations

import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from compilers.proof.tool import Tool

HEADER_WORDS = 5
ENTRY_POINT = 15
"""OpEntryPoint."""
FUNCTION_END = 56
"""OpFunctionEnd: the last instruction of every module that has code."""
LARGEST_OPCODE = 0x1FFF


@dataclass(frozen=True, slots=True)
class SpirvModule:
    """What a module says of itself."""

    size_bytes: int
    version: str
    entries: tuple[str, ...]
    complaint: str = ""


def read_spirv(data: bytes, *, validator: Tool | None) -> SpirvModule:
    """What a module says of itself; `data` begins with its magic number and may go on behind it.

    Instructions say their own length (SPIR-V specification, 2.3 "physical layout"), so a module ends behind
    its last OpFunctionEnd from which on nothing can be an instruction.
    """
    words = memoryview(data[: len(data) // 4 * 4]).cast("I")
    version = words[1]
    named = f"{version >> 16 & 0xFF}.{version >> 8 & 0xFF}"
    entries: list[str] = []
    at, end = HEADER_WORDS, 0
    while at < len(words):
        count, opcode = words[at] >> 16, words[at] & 0xFFFF
        if count == 0 or opcode > LARGEST_OPCODE or at + count > len(words):
            break
        if opcode == ENTRY_POINT and count > 3:
            name = struct.pack(f"<{count - 3}I", *words[at + 3 : at + count]).split(b"\0")[0]
            entries.append(name.decode("utf-8", "replace"))
        at += count
        if opcode == FUNCTION_END:
            end = at
    if not end:
        return SpirvModule(
            4 * min(at, len(words)), named, tuple(entries), "is cut short: it has no whole function"
        )
    complaint = "" if entries else "has no entry point"
    if validator is not None and not complaint:
        complaint = _validate(data[: 4 * end], validator)
    return SpirvModule(4 * end, named, tuple(sorted(entries)), complaint)


def _validate(module: bytes, validator: Tool) -> str:
    with tempfile.TemporaryDirectory(prefix="rung-proof-") as name:
        path = Path(name) / "code.spv"
        path.write_bytes(module)
        accepted = validator.run([str(path)]) is not None
    return "" if accepted else f"is refused by {validator.name}"
