"""Finding machine code inside a file: a library that embeds GPU code, a module that is a container.

A find begins at a magic number and is believed if what follows has the form; its size is the reader's matter
(`elf`, `cuda`, `spirv`). Containers are searched as a whole, so nothing depends on how a compiler packs them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Signature = Literal["elf", "fatbin", "ptx", "spirv"]

_SIGNATURES = re.compile(
    rb"(?P<elf>\x7fELF[\x01\x02][\x01\x02]\x01)"
    # fatbinary.h of the CUDA toolkit: magic 0xBA55ED50, version 1, header of 16 bytes
    rb"|(?P<fatbin>\x50\xed\x55\xba\x01\x00\x10\x00)"
    # https://registry.khronos.org/SPIR-V/specs/unified1/SPIRV.html, "physical layout": magic, then version
    rb"|(?P<spirv>\x03\x02\x23\x07\x00[\x00-\x09]\x01\x00)"
    # https://docs.nvidia.com/cuda/parallel-thread-execution, ".version": the first directive of a module
    rb"|(?P<ptx>\.version\s+[0-9]+\.[0-9]+\s+\.target\s+sm_[0-9])"
)
_SOURCE = re.compile(
    rb'extern\s+"C"\s+__global__|__launch_bounds__\s*\(|\b__global__\s+(?:static\s+)?void\b|'
    rb"\b(?:blockIdx|threadIdx)\.[xyz]\s*[*+)<;]|\b__kernel\s+(?:__attribute__|void)|#include\s*<hip/hip_runtime"
)
_EXECUTABLES = {
    b"\x7fELF": "ELF",
    b"MZ": "a Windows executable",
    b"\xcf\xfa\xed\xfe": "Mach-O",
    b"\xca\xfe\xba\xbe": "Mach-O or Java",
    b"!<arch>\n": "an archive of object files",
    b"#!": "a script",
    b"\x50\xed\x55\xba": "a CUDA fatbin",
    b"\x00asm": "WebAssembly",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A place where code may begin."""

    kind: Signature
    offset: int


def signatures(data: bytes) -> Iterator[Found]:
    """Every place that begins like code, in order."""
    for match in _SIGNATURES.finditer(data):
        for kind in ("elf", "fatbin", "ptx", "spirv"):
            if match[kind] is not None:
                yield Found(kind, match.start())


def gpu_source(data: bytes) -> tuple[int, str] | None:
    """Where GPU source text lies, and what it says there; None where there is none."""
    match = _SOURCE.search(data)
    return None if match is None else (match.start(), match[0].decode("ascii", "replace"))


def executable_form(head: bytes) -> str | None:
    """What kind of executable a file's first bytes make it; None: none that is known."""
    return next((name for magic, name in _EXECUTABLES.items() if head.startswith(magic)), None)
