"""Which instruction set extensions machine code uses, by disassembling it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from compilers.proof.tool import Tool, find_tool

DISASSEMBLERS: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("objdump", "llvm-objdump"),
    "aarch64": ("aarch64-linux-gnu-objdump", "llvm-objdump"),
}
"""Programs that read an architecture's code, the best first."""

SIGNS: Mapping[str, Mapping[str, str]] = {
    "x86_64": {
        "avx512f": r"%zmm\d|%[xy]mm(?:1[6-9]|2\d|3[01])\b|%k[0-7]\b",
        "avx512_vnni|avx_vnni": r"\bvpdp(?:bu|ws)sds?\b",
        "avx512_bf16": r"\bvdpbf16ps\b",
        "avx512_fp16": r"\bv(?:add|mul|sub|div|fn?m(?:add|sub)\d+)ph\b",
        "amx_tile": r"%tmm\d",
        "avx2": r"\bv(?:pmaddwd|padd[bwdq]|pmulld|pand|pxor)\b.*%ymm|\bvpbroadcast[bwdq]\b|\bvpermps\b",
        "avx": r"%ymm\d",
        "fma": r"\bvfn?m(?:add|sub)\d+[ps][sd]\b",
        "f16c": r"\bvcvt(?:ph2ps|ps2ph)\b",
    },
    "aarch64": {
        "sve": r"\b[zp]\d+\.[bhsdq]\b|\bptrue\b|\bwhilel[oet]\b|\brdvl\b",
        "sme": r"\bsmst(?:art|op)\b",
        "asimddp": r"\b[su]dot\b",
        "i8mm": r"\b[su]mmla\b|\busdot\b|\busmmla\b",
        "bf16": r"\bbf(?:dot|mmla|mlal[bt]|cvtn?2?)\b",
        "asimdhp": r"\bf(?:add|sub|mul|mla|mls|div|max|min)\w*\s+v\d+\.[48]h",
        "atomics": r"\b(?:ldadd|ldset|ldclr|ldeor|cas|swp)(?:a|l|al)?[bh]?\s+[wx]\d",
    },
}
"""Architecture → features (as Linux names them, `|`: any of them) → instructions that only they have."""


@dataclass(frozen=True, slots=True)
class InstructionReading:
    """What a disassembly shows."""

    tool: str
    instructions: int
    features: Mapping[str, str]
    """Features used, each with the first instruction that shows it."""


def find_disassembler(architecture: str) -> Tool | None:
    """A disassembler for an architecture."""
    names = DISASSEMBLERS.get(architecture, ())
    tool = find_tool(*names) if names else None
    if tool is not None and architecture == "x86_64" and tool.name.startswith("objdump"):
        # On an Arm machine `objdump` reads Arm's code alone.
        listing = tool.run(["--info"]) or ""
        tool = tool if "elf64-x86-64" in listing else find_tool(*names[1:])
    return tool


def read_instructions(code: bytes, *, architecture: str, tool: Tool) -> InstructionReading | None:
    """Which features the code of an ELF image uses; None where it cannot be disassembled."""
    signs = {feature: re.compile(pattern) for feature, pattern in SIGNS[architecture].items()}
    options = ["-d", "--no-show-raw-insn"]
    if tool.name.startswith("llvm") and architecture == "aarch64":
        options.append("--mattr=+sve2,+dotprod,+i8mm,+bf16,+fullfp16,+lse,+sme")
    with tempfile.TemporaryDirectory(prefix="rung-proof-") as name:
        path = Path(name) / "code.so"
        path.write_bytes(code)
        text = tool.run([*options, str(path)])
    if text is None:
        return None
    found: dict[str, str] = {}
    count = 0
    for line in text.splitlines():
        _, separator, instruction = line.partition(":\t")
        if not separator:
            _, separator, instruction = line.partition(": ")
            if not separator:
                continue
        count += 1
        if len(found) < len(signs):
            for feature, sign in signs.items():
                if feature not in found and sign.search(instruction):
                    found[feature] = " ".join(instruction.split())
    return InstructionReading(tool.name, count, found)
