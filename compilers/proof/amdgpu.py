"""Reading AMDGPU code objects: the processor stands in the ELF flags and again in the metadata note."""

from __future__ import annotations

import functools
import re
import tomllib
from dataclasses import dataclass
from importlib import resources

from compilers.proof.elf import Image

# A MessagePack string behind its key (https://llvm.org/docs/AMDGPUUsage.html, "code object metadata"); the
# triple's parts differ between compilers, the processor is always its last part.
_TARGET = re.compile(
    rb"amdhsa\.target(?:[\xa0-\xbf]|\xd9.)(?P<triple>[\w.-]*-(?P<gfx>gfx[0-9a-f]+)(?::\w+[+-])*)", re.S
)


@dataclass(frozen=True, slots=True)
class CodeObject:
    """What a code object says of its processor."""

    architecture: str
    """By the ELF flags: `gfx942`."""
    noted: str | None
    """By the metadata note; None: there is none."""
    triple: str


def read_code_object(image: Image) -> CodeObject:
    """What a code object says of its processor."""
    number = image.flags & 0xFF
    architecture = _machines().get(number, f"processor 0x{number:02x}")
    match = next((m for note in image.notes.values() if (m := _TARGET.search(note))), None)
    if match is None:
        return CodeObject(architecture, None, "")
    return CodeObject(architecture, match["gfx"].decode(), match["triple"].decode())


@functools.cache
def _machines() -> dict[int, str]:
    text = resources.files("compilers.proof").joinpath("amdgpu.toml").read_text(encoding="utf-8")
    return {number: name for name, number in tomllib.loads(text)["mach"].items()}
