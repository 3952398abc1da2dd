"""The generic judge of a proof: what every artifact must hold for its target, and what none may.

What one format demands beyond that is in the backend's `proof.py`, named by its `Claims`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from compilers.proof.claim import Claim, Claims, FileReading, Readings
from compilers.proof.graph import OnnxGraph
from compilers.proof.instructions import find_disassembler, read_instructions
from compilers.proof.proof import BinaryKind

MACHINES: Mapping[str, str] = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
"""Architecture of a processor → ELF's name of it."""


def judge(
    claim: Claim, evidence: Readings, *, claims: Claims | None, private_files: Sequence[re.Pattern[str]]
) -> tuple[str, ...]:
    """Where an artifact differs from its manifest, as sentences.

    What could not be checked is added to the evidence's notes.

    Args:
        claim: What is said of the artifact.
        evidence: What was read of it.
        claims: What its format demands for its kind of target; None: the format has no form for it.
        private_files: Match files under a vendor's licence, of all backends.
    """
    if claims is None:
        return (f"the format is `{claim.format}`, which has no form for {claim.target.kind} targets",)
    return tuple(_judge(claim, evidence, claims, private_files))


def summarize(claim: Claim, evidence: Readings, problems: Sequence[str], *, claims: Claims | None) -> str:
    """One line for people."""
    who = f"{claim.toolchain} for `{claim.target.name}`"
    if problems or claims is None:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"{who}: the binary is not what the manifest says: {problems[0]}{more}"
    found = [reading.binary for reading in evidence.of(*claims.code)]
    kinds = {binary.kind for binary in found}
    names = ", ".join(
        sorted({a for b in found for a in b.architectures}) or sorted({b.machine for b in found})
    )
    count = f"{len(found)} binaries" if len(found) > 1 else "one binary"
    if kinds == {"ptx"}:
        return (
            f"{who}: PTX for {names} in {count}, which the driver compiles to machine code when it is loaded"
        )
    if kinds == {"spirv"}:
        return f"{who}: {names} in {count}, which the driver compiles to machine code when it is loaded"
    if kinds == {"onnx"}:
        return f"{who}: a graph ({names}) and no machine code, which comes from {claims.graph_compiler}"
    return f"{who}: machine code for {names} in {count}, as the manifest says"


def outside_weights(file: str, graph: OnnxGraph) -> Iterator[str]:
    """A rule for graphs: weights come from files beside the graph alone."""
    for name in graph.outside:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            yield f"`{file}` takes weights from `{name}`, outside of the artifact"


def _judge(
    claim: Claim, evidence: Readings, claims: Claims, private_files: Sequence[re.Pattern[str]]
) -> Iterator[str]:
    if claim.entry not in claim.files:
        yield f"the manifest's entry is `{claim.entry}`, which is not among the files"
    yield from _unexpected(claim, evidence, claims.code | claims.around)
    for file in claim.files:
        if any(pattern.search(file) for pattern in private_files):
            yield f"`{file}` is a library under its vendor's licence, which must not be passed on"
    code = evidence.of(*claims.code)
    if not code:
        found = ", ".join(sorted({reading.binary.kind for reading in evidence.readings})) or "nothing"
        found += " alone, which a node would have to compile" if evidence.of("source") else ""
        yield f"the manifest says `{claim.target.name}`, but there is no {_either(claims.code)}: {found}"
        return
    match claim.target.kind:
        case "cpu" if "elf" in claims.code:
            yield from _processor(claim, evidence, code)
        case "cuda" | "rocm":
            yield from _architectures(claim, code)
        case "vulkan":
            yield from _spirv(claim, code)
    for rule in claims.rules:
        yield from rule.load()(claim, evidence)


def _unexpected(claim: Claim, evidence: Readings, allowed: frozenset[BinaryKind]) -> Iterator[str]:
    for reading in evidence.readings:
        binary = reading.binary
        if binary.kind == "source":
            yield f"`{binary.file}` holds GPU source text at byte {binary.offset} (`{binary.flags}`)"
        elif binary.kind not in allowed and binary.kind != "unknown":
            yield (
                f"`{binary.file}` holds {binary.kind} code ({binary.machine}), and a `{claim.format}` "
                f"artifact for {claim.target.kind} targets has none"
            )


def _processor(claim: Claim, evidence: Readings, code: Sequence[FileReading]) -> Iterator[str]:
    """ELF images for the target's processor, without instructions that it lacks."""
    target = claim.target
    expected = MACHINES.get(target.architecture, target.architecture)
    tool = find_disassembler(target.architecture)
    if tool is None:
        evidence.notes.append(f"no disassembler for {target.architecture}: instructions are unchecked")
    for reading in code:
        binary, image = reading.binary, reading.image
        if binary.machine != expected:
            yield f"the manifest says {target.architecture} ({expected}), `{binary.file}` is {binary.machine}"
            continue
        if image is not None and (image.kind != "ET_DYN" or image.code_bytes == 0):
            yield f"`{binary.file}` is no library with code ({image.kind}, {image.code_bytes} bytes of code)"
            continue
        if tool is None:
            continue
        shown = read_instructions(reading.code, architecture=target.architecture, tool=tool)
        if shown is None or shown.instructions == 0:
            evidence.notes.append(f"{tool.name} shows no instruction of `{binary.file}`: unchecked")
            continue
        evidence.notes.append(
            f"`{binary.file}`: {shown.instructions} instructions, with "
            f"{', '.join(shown.features) or 'no extension'} ({shown.tool})"
        )
        for features, instruction in shown.features.items():
            if not set(features.split("|")) & set(target.features):
                yield (
                    f"`{target.name}` has no {features.replace('|', ' or ')}, and `{binary.file}` uses it: "
                    f"`{instruction}`"
                )


def _architectures(claim: Claim, code: Sequence[FileReading]) -> Iterator[str]:
    """GPU code for each of the target's architectures, and for no other."""
    expected = set(claim.target.architectures)
    found = {name for reading in code for name in reading.binary.architectures}
    for reading in code:
        if other := set(reading.binary.architectures) - expected:
            yield (
                f"the manifest says {_names(expected)}, `{reading.binary.file}` holds {reading.binary.kind} "
                f"code for {_names(other)}"
            )
    if missing := expected - found:
        yield f"the manifest says {_names(expected)}, and there is no code for {_names(missing)}"


def _spirv(claim: Claim, code: Sequence[FileReading]) -> Iterator[str]:
    """SPIR-V of at most the version that the target's drivers take."""
    newest = _version(claim.target.architecture)
    for reading in code:
        for name in reading.binary.architectures:
            if _version(name) > newest:
                yield f"the manifest says {claim.target.architecture}, `{reading.binary.file}` holds {name}"


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.rpartition("-")[2].split(".") if part.isdigit())


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))


def _either(kinds: Iterable[str]) -> str:
    return " or ".join(sorted(kinds))
