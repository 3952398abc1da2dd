"""Reading ELF images with pyelftools: machine, flags, sections, exports, and whether they are whole.

Cubins (EM_CUDA) and HSACO (EM_AMDGPU) are ELF images too.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from registry.errors import CorruptError

MAX_SYMBOLS = 1 << 16
"""Symbols read of a table; a damaged header may claim any number."""
MAX_SECTIONS = 1 << 13
Header = Any
"""What pyelftools parses; it ships no types."""
_DATA = ("SHT_PROGBITS",)
_EXECUTES, _ALLOCATED = 0x4, 0x2


@dataclass(frozen=True, slots=True)
class Image:
    """What an ELF image says of itself."""

    machine: str
    """`EM_X86_64` …"""
    kind: str
    """`ET_DYN`, `ET_EXEC`, `ET_REL`."""
    flags: int
    abi: int
    """Version of the ABI, from the identification."""
    little_endian: bool
    bits: int
    size_bytes: int
    """From its first byte to the end of its last header, section or segment."""
    data_bytes: int
    """Allocated sections that are no code."""
    code_bytes: int
    """Allocated sections that are code."""
    needed: tuple[str, ...]
    exports: tuple[str, ...]
    """Defined global symbols, sorted: of the dynamic table, or functions of the static one without it."""
    notes: Mapping[str, bytes] = field(default_factory=dict)
    """Notes by their owner's name, one behind the other."""


def read_elf(data: bytes) -> Image:
    """What an image says of itself; `data` begins with it and may go on behind it.

    Raises:
        CorruptError: It cannot be read, or is cut short.
    """
    try:
        return _read(data)
    except CorruptError:
        raise
    # pyelftools raises what its parsers run into on damaged input, and names only some of it.
    except Exception as error:
        raise _damaged(f"not readable as ELF: {type(error).__name__} {error}".strip()) from error


def _read(data: bytes) -> Image:
    from elftools.elf.elffile import ELFFile

    elf = ELFFile(io.BytesIO(data))
    header = elf.header
    end = _extent(header, data)
    if end > len(data):
        raise _damaged(f"cut short: {len(data)} of {end} bytes")
    sections = list(elf.iter_sections())
    for section in sections:
        if section["sh_type"] not in ("SHT_NULL", "SHT_NOBITS"):
            end = max(end, section["sh_offset"] + section["sh_size"])
    segments = list(elf.iter_segments())
    for segment in segments:
        end = max(end, segment["p_offset"] + segment["p_filesz"])
    if end > len(data):
        raise _damaged(f"cut short: {len(data)} of {end} bytes")
    loaded = [s for s in sections if s["sh_flags"] & _ALLOCATED and s["sh_type"] in _DATA]
    machine = header["e_machine"]
    return Image(
        machine=machine if isinstance(machine, str) else f"machine {machine}",
        kind=str(header["e_type"]),
        flags=int(header["e_flags"]),
        abi=int(header["e_ident"]["EI_ABIVERSION"]),
        little_endian=elf.little_endian,
        bits=elf.elfclass,
        size_bytes=end,
        data_bytes=sum(s["sh_size"] for s in loaded if not s["sh_flags"] & _EXECUTES),
        code_bytes=sum(s["sh_size"] for s in loaded if s["sh_flags"] & _EXECUTES)
        or sum(s["p_filesz"] for s in segments if s["p_type"] == "PT_LOAD" and s["p_flags"] & 1),
        needed=_needed(segments),
        exports=_exports(sections, segments),
        notes=_notes(segments, sections),
    )


def _extent(header: Header, data: bytes) -> int:
    """The end of the header tables, before anything follows them."""
    if header["e_shnum"] > MAX_SECTIONS or header["e_phnum"] > MAX_SECTIONS:
        raise _damaged(f"its header claims {header['e_shnum']} sections")
    ends = [
        header["e_shoff"] + header["e_shnum"] * header["e_shentsize"],
        header["e_phoff"] + header["e_phnum"] * header["e_phentsize"],
        header["e_ehsize"],
    ]
    return int(max(ends))


def _needed(segments: list[Header]) -> tuple[str, ...]:
    for segment in segments:
        if segment["p_type"] == "PT_DYNAMIC":
            return tuple(
                tag.needed for _, tag in zip(range(4096), segment.iter_tags("DT_NEEDED"), strict=False)
            )
    return ()


def _exports(sections: list[Header], segments: list[Header]) -> tuple[str, ...]:
    tables = {s["sh_type"]: s for s in sections if s["sh_type"] in ("SHT_DYNSYM", "SHT_SYMTAB")}
    table = tables.get("SHT_DYNSYM", tables.get("SHT_SYMTAB"))
    if table is None:
        # Without sections (IREE strips them) the dynamic segment finds the table through its hash.
        table = next((s for s in segments if s["p_type"] == "PT_DYNAMIC"), None)
        if table is None:
            return ()
    static = "SHT_DYNSYM" not in tables
    names = set()
    for _, symbol in zip(range(MAX_SYMBOLS), table.iter_symbols(), strict=False):
        info = symbol["st_info"]
        defined = symbol["st_shndx"] != "SHN_UNDEF" and info["bind"] in ("STB_GLOBAL", "STB_WEAK")
        if defined and symbol.name and (not static or info["type"] in ("STT_FUNC", 13)):
            names.add(symbol.name)
    return tuple(sorted(names))


def _notes(segments: list[Header], sections: list[Header]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    holders = [s for s in segments if s["p_type"] == "PT_NOTE"]
    holders = holders or [s for s in sections if s["sh_type"] == "SHT_NOTE"]
    for holder in holders:
        try:
            for _, note in zip(range(64), holder.iter_notes(), strict=False):
                body = note["n_desc"]
                raw = body.encode("latin-1") if isinstance(body, str) else body
                if isinstance(raw, bytes):
                    found[note["n_name"]] = found.get(note["n_name"], b"") + raw
        except (struct.error, UnicodeError, ValueError, TypeError):
            continue  # notes are no part of what must be whole
    return found


def _damaged(message: str) -> CorruptError:
    return CorruptError(message, hint="build it again")
