"""What each format must hold for a target, and what it must not."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from compilers.portable.operators import find_allow_list
from compilers.proof.elf import Image
from compilers.proof.graph import OnnxGraph
from compilers.proof.instructions import find_disassembler, read_instructions
from compilers.proof.proof import Binary, BinaryKind
from compilers.proof.qnn import vendor_libraries
from registry.artifact import ArtifactFormat
from registry.errors import UnknownNameError
from registry.target import Target

MACHINES: Mapping[str, str] = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
PLAN_NAME = "plan.json"
EXPORT_PREFIX = "__tvm_ffi_"
LAUNCHES_NAME, KERNEL_SUFFIX = "launches.json", "_kernel"
"""What a TVM artifact for GPUs launches, and what TVM puts behind a kernel's name."""
DATA_ALLOWANCE_BYTES = 1 << 20
"""Constants and bytecode that a library without weights may hold …"""
DATA_ALLOWANCE_SHARE = 0.05
"""… and the share of the weights' size that it may hold beyond."""
NODE_LIBRARIES = (
    "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "libgcc_s.so", "libstdc++.so", "ld-linux",
    "libtvm_ffi.so", "libtvm_runtime.so", "libcuda.so", "libcudart.so",
)  # fmt: skip
"""What a node with the runtime has."""
ONNXRUNTIME_DOMAINS = frozenset({"com.microsoft", "ai.onnx.ml"})
SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "U8": 1, "I8": 1}

CODE: Mapping[tuple[ArtifactFormat, str], frozenset[BinaryKind]] = {
    ("tvm", "cpu"): frozenset({"elf"}),
    ("tvm", "cuda"): frozenset({"fatbin", "cubin"}),
    ("tvm", "rocm"): frozenset({"hsaco"}),
    ("iree", "cpu"): frozenset({"elf"}),
    ("iree", "cuda"): frozenset({"ptx", "fatbin", "cubin"}),
    ("iree", "rocm"): frozenset({"hsaco"}),
    ("iree", "vulkan"): frozenset({"spirv"}),
    ("qnn", "npu"): frozenset({"qnn-context"}),
    ("portable", "npu"): frozenset({"onnx"}),
    ("onnxruntime", "cpu"): frozenset({"onnx"}),
}
"""Format and kind of target → what does the work; one of these must be there."""
CASES: Mapping[ArtifactFormat, frozenset[BinaryKind]] = {
    "tvm": frozenset({"elf"}),
    "iree": frozenset({"vmfb"}),
    "qnn": frozenset({"onnx"}),
    "portable": frozenset(),
    "onnxruntime": frozenset(),
}
"""What may lie around it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is said of an artifact."""

    format: ArtifactFormat
    toolchain: str
    target: Target
    entry: str
    files: tuple[str, ...]
    options: Mapping[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class FileReading:
    """One binary, and what is needed to judge it."""

    binary: Binary
    image: Image | None = None
    code: bytes = b""
    """The image's bytes."""
    exports: frozenset[str] = frozenset()
    """All exported functions; the binary's record names the first of them."""


@dataclass(slots=True)
class Readings:
    """All that was read of an artifact."""

    directory: Path
    readings: Sequence[FileReading]
    graphs: Mapping[str, OnnxGraph]
    notes: list[str] = field(default_factory=list)

    def of(self, *kinds: BinaryKind) -> list[FileReading]:
        """The binaries of some kinds."""
        return [reading for reading in self.readings if reading.binary.kind in kinds]


def judge(claim: Claim, evidence: Readings) -> tuple[str, ...]:
    """Where the two differ, as sentences; what could not be checked is added to the evidence's notes."""
    return tuple(_judge(claim, evidence))


def summarize(claim: Claim, evidence: Readings, problems: Sequence[str]) -> str:
    """One line for people."""
    who = f"{claim.toolchain} for `{claim.target.name}`"
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        return f"{who}: the binary is not what the manifest says: {problems[0]}{more}"
    wanted = CODE.get((claim.format, claim.target.kind), frozenset())
    found = [reading.binary for reading in evidence.readings if reading.binary.kind in wanted]
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
        which = "the onnxruntime of the node" if claim.format == "onnxruntime" else "the node's own compiler"
        return f"{who}: a graph ({names}) and no machine code, which comes from {which}"
    return f"{who}: machine code for {names} in {count}, as the manifest says"


def _judge(claim: Claim, evidence: Readings) -> Iterator[str]:
    wanted = CODE.get((claim.format, claim.target.kind))
    if wanted is None:
        yield f"the format is `{claim.format}`, which has no form for {claim.target.kind} targets"
        return
    if claim.entry not in claim.files:
        yield f"the manifest's entry is `{claim.entry}`, which is not among the files"
    yield from _unexpected(claim, evidence, wanted)
    for file in vendor_libraries(claim.files):
        yield f"`{file}` is a library under its vendor's licence, which must not be passed on"
    code = evidence.of(*wanted)
    if not code:
        found = ", ".join(sorted({reading.binary.kind for reading in evidence.readings})) or "nothing"
        found += " alone, which a node would have to compile" if evidence.of("source") else ""
        yield f"the manifest says `{claim.target.name}`, but there is no {_either(wanted)}: {found}"
        return
    match claim.target.kind:
        case "cpu" if claim.format != "onnxruntime":
            yield from _processor(claim, evidence, code)
        case "cuda" | "rocm":
            yield from _architectures(claim, code)
        case "vulkan":
            yield from _spirv(claim, code)
    match claim.format:
        case "tvm":
            yield from _library(claim, evidence)
            yield from _kernels(claim, evidence)
        case "onnxruntime":
            yield from _plain_graph(evidence)
        case "qnn":
            yield from _context_graph(claim, evidence)
        case "portable":
            yield from _portable_graph(claim, evidence)
        case "iree":
            pass


def _unexpected(claim: Claim, evidence: Readings, wanted: frozenset[BinaryKind]) -> Iterator[str]:
    allowed = wanted | CASES[claim.format]
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


def _library(claim: Claim, evidence: Readings) -> Iterator[str]:
    """A TVM library: the functions of its plan, no weights, no library that a node lacks."""
    host = [r for r in evidence.of("elf") if r.binary.offset == 0]
    plan = _read_plan(evidence.directory / PLAN_NAME) if PLAN_NAME in claim.files else {}
    if plan is None:
        yield f"`{PLAN_NAME}` cannot be read"
        return
    inside = sum(r.binary.size_bytes for r in evidence.of("fatbin", "cubin", "hsaco"))
    for reading in host:
        binary, image = reading.binary, reading.image
        if binary.machine not in MACHINES.values():
            yield f"`{binary.file}` is {binary.machine}, which is no machine that Rung has nodes of"
        if image is None:
            continue
        for library in image.needed:
            if not library.startswith(NODE_LIBRARIES):
                yield f"`{binary.file}` asks for `{library}`, which a node does not have"
        allowed = DATA_ALLOWANCE_BYTES + DATA_ALLOWANCE_SHARE * _weights_bytes(plan)
        if image.data_bytes - inside > allowed:
            yield (
                f"weights lie beside the library, and `{binary.file}` holds {image.data_bytes - inside} "
                f"bytes of data (at most {allowed:.0f} are plausible)"
            )
    entry = next((r for r in host if r.binary.file == claim.entry), None)
    if entry is not None:
        for function in sorted(_functions(plan)):
            if EXPORT_PREFIX + function not in entry.exports:
                yield f"`{PLAN_NAME}` calls `{function}`, which `{claim.entry}` does not export"


def _kernels(claim: Claim, evidence: Readings) -> Iterator[str]:
    """GPU code of TVM: every kernel that is launched, for each architecture."""
    if LAUNCHES_NAME not in claim.files:
        return
    plan = _read_plan(evidence.directory / LAUNCHES_NAME)
    kernels = plan.get("kernels") if plan is not None else None
    if not isinstance(kernels, dict):
        yield f"`{LAUNCHES_NAME}` cannot be read"
        return
    for reading in evidence.of("fatbin", "cubin", "hsaco"):
        if lacking := [name for name in kernels if f"{name}{KERNEL_SUFFIX}" not in reading.exports]:
            yield (
                f"`{LAUNCHES_NAME}` launches {', '.join(f'`{name}`' for name in lacking[:5])}, which "
                f"`{reading.binary.file}` does not hold for every architecture"
            )


def _plain_graph(evidence: Readings) -> Iterator[str]:
    """A graph of standard operators and those of ONNX Runtime itself."""
    for file, graph in evidence.graphs.items():
        if graph.code:
            yield f"`{file}` carries compiled code (EPContext of {graph.code[0].source or 'no provider'})"
        for operator in graph.operators:
            domain, _, name = operator.rpartition(".")
            if domain and domain not in ONNXRUNTIME_DOMAINS:
                yield f"`{file}` uses `{name}` of `{domain}`, which needs a library of its own"
        yield from _outside(file, graph)


def _context_graph(claim: Claim, evidence: Readings) -> Iterator[str]:
    """Graphs whose every node is compiled for the HTP of the target."""
    expected = claim.target.architecture.removeprefix("htp-")
    named: set[str] = set()
    for file, graph in evidence.graphs.items():
        if not graph.code:
            yield f"`{file}` has no EPContext node: nothing in it is compiled"
        if others := [op for op in graph.operators if not op.endswith("EPContext")]:
            yield f"`{file}` leaves nodes to the processor: {', '.join(others[:8])}"
        for code in graph.code:
            if not code.source.upper().startswith("QNN"):
                yield f"`{file}` carries code compiled by `{code.source}`, not by QNN"
            if code.file is not None:
                named.add(code.file)
                if code.file not in claim.files:
                    yield f"`{file}` names the context `{code.file}`, which is not among the files"
    if not evidence.graphs:
        yield "there is no graph with an EPContext node beside the context"
    for reading in evidence.of("qnn-context"):
        binary = reading.binary
        if other := set(binary.architectures) - {expected}:
            yield (
                f"the manifest says {expected}, `{binary.file}` holds a graph for {_names(other)} "
                f"({binary.flags})"
            )
        if "#" not in binary.file and binary.file not in named:
            yield f"`{binary.file}` is a context that no graph names"


def _portable_graph(claim: Claim, evidence: Readings) -> Iterator[str]:
    """Graphs of operators that the vendor's converter takes, with static shapes."""
    try:
        allowed = find_allow_list(claim.toolchain)
    except UnknownNameError as error:
        yield f"the manifest says toolchain `{claim.toolchain}`, for which there is no list: {error.message}"
        return
    for file, graph in evidence.graphs.items():
        if graph.code:
            yield f"`{file}` carries compiled code (EPContext of {graph.code[0].source or 'no provider'})"
        if graph.open_shapes:
            yield f"`{file}` must have static shapes, and has none for {', '.join(graph.open_shapes[:5])}"
        if foreign := [operator for operator in graph.operators if operator not in allowed.operators]:
            yield f"`{file}` uses {', '.join(foreign[:8])}, which {allowed.product} does not take"
        if not allowed.oldest_opset <= graph.opset <= allowed.newest_opset:
            yield (
                f"`{file}` is in operator set {graph.opset}, and {allowed.product} takes "
                f"{allowed.oldest_opset} to {allowed.newest_opset}"
            )
        yield from _outside(file, graph)


def _outside(file: str, graph: OnnxGraph) -> Iterator[str]:
    for name in graph.outside:
        if "/" in name or "\\" in name or name in ("", ".", ".."):
            yield f"`{file}` takes weights from `{name}`, outside of the artifact"


def _read_plan(path: Path) -> dict[str, object] | None:
    try:
        plan = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return plan if isinstance(plan, dict) else None


def _functions(plan: Mapping[str, object]) -> set[str]:
    """Pack functions, which the runtime calls by name before it starts the virtual machine's own."""
    return {
        str(fill["function"])
        for parameter in _dicts(plan.get("parameters"))
        for fill in _dicts(parameter.get("fills"))
        if "function" in fill
    }


def _weights_bytes(plan: Mapping[str, object]) -> int:
    tensors = plan.get("tensors")
    total = 0
    for form in _dicts(tensors.values() if isinstance(tensors, dict) else ()):
        count = SIZES.get(str(form.get("dtype")), 1)
        shape = form.get("shape")
        for extent in shape if isinstance(shape, list) else ():
            count *= extent if isinstance(extent, int) else 1
        total += count
    return total


def _dicts(values: object) -> list[dict[str, object]]:
    items: Iterable[object] = values if isinstance(values, Iterable) else ()
    return [value for value in items if isinstance(value, dict)]


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) for part in name.rpartition("-")[2].split(".") if part.isdigit())


def _names(values: Iterable[str]) -> str:
    return ", ".join(sorted(values))


def _either(kinds: Iterable[str]) -> str:
    return " or ".join(sorted(kinds))
