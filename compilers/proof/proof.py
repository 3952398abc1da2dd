"""The values of a proof: binaries found in an artifact, and where they differ from what the manifest says."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

from pydantic import Field

from registry.digest import Digest
from registry.value import Value

BinaryKind = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")]
"""The generic proof reads `elf` (code of a processor), `fatbin`, `cubin`, `ptx`, `hsaco`, `spirv`, `vmfb`,
`onnx`, `source` (text that a node would have to compile) and `unknown` (executable, and none of these).
Backends add forms that they alone know (`Format.readers`), such as `qnn-context`."""


MOST_LINES = 8
"""Binaries of one kind in one file that are shown to people."""


class Binary(Value):
    """One piece of code, or one graph, that lies in an artifact."""

    file: str
    """Path in the artifact."""
    offset: int
    """Where it begins in that file, in bytes; 0: it is the file."""
    size_bytes: int
    digest: Digest
    """Of these bytes alone."""
    kind: BinaryKind
    machine: str
    """As the format names it: `EM_AARCH64`, `EM_CUDA`, `EM_AMDGPU`, `SPIR-V 1.6`, `ONNX opset 21`, `HTP` …"""
    architectures: tuple[str, ...] = ()
    """Such as `sm_80`, `gfx942`, `v73`; sorted; empty where the format does not say."""
    flags: str = ""
    """The format's own flags word or version, in its own notation."""
    needs: tuple[str, ...] = ()
    """Shared libraries that it asks for, or graph operators that it uses."""
    exports: tuple[str, ...] = ()
    """Its first exported functions, sorted."""
    tool: str
    """Which tool said so, with its version."""


class Proof(Value):
    """What an artifact's bytes say, held against its manifest."""

    binaries: tuple[Binary, ...]
    """In the order of files and offsets."""
    problems: tuple[str, ...]
    """Where the two differ: what the manifest says, what the binary holds. Any of them fails the cell."""
    notes: tuple[str, ...] = ()
    """What is worth knowing and no fault: what was not checked, and why."""
    summary: str
    """One line for people."""

    @property
    def sound(self) -> bool:
        """Whether binary and manifest agree."""
        return not self.problems


def proof_lines(proof: Proof) -> tuple[str, ...]:
    """A proof as lines of text: the summary, each binary with the tool that read it, problems and notes."""
    lines = [proof.summary]
    shown: Counter[tuple[str, str]] = Counter()
    for binary in proof.binaries:
        shown[binary.file, binary.kind] += 1
        if shown[binary.file, binary.kind] > MOST_LINES:
            continue
        place = binary.file if binary.offset == 0 else f"{binary.file} at {binary.offset}"
        facts = [binary.machine, " ".join(binary.architectures), binary.flags]
        said = ", ".join(fact for fact in facts if fact)
        lines.append(f"  {place}: {binary.kind}, {said} ({binary.size_bytes} bytes; {binary.tool})")
    for (file, kind), count in shown.items():
        if count > MOST_LINES:
            lines.append(f"  {file}: {count - MOST_LINES} more of {kind}")
    lines += [f"  problem: {problem}" for problem in proof.problems]
    lines += [f"  note: {note}" for note in proof.notes]
    return tuple(lines)
