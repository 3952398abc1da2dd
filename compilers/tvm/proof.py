"""What a proof demands of TVM artifacts: plan and library belong together, and hold nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from compilers.plan_file import PLAN_NAME
from compilers.proof.claim import Claim, Readings
from compilers.proof.rules import MACHINES
from compilers.tvm.gpu.plan import LAUNCHES_NAME
from registry.weights import ITEM_BITS

EXPORT_PREFIX = "__tvm_ffi_"
"""What TVM puts before the name of an exported function."""
KERNEL_SUFFIX = "_kernel"
"""What TVM puts behind a kernel's name."""
DATA_ALLOWANCE_BYTES = 1 << 20
"""Constants and bytecode that a library without weights may hold …"""
DATA_ALLOWANCE_SHARE = 0.05
"""… and the share of the weights' size that it may hold beyond."""
NODE_LIBRARIES = (
    "libc.so", "libm.so", "libpthread.so", "libdl.so", "librt.so", "libgcc_s.so", "libstdc++.so", "ld-linux",
    "libtvm_ffi.so", "libtvm_runtime.so", "libcuda.so", "libcudart.so",
)  # fmt: skip
"""What a node with the runtime has."""


def check_library(claim: Claim, evidence: Readings) -> Iterator[str]:
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
            yield f"`{binary.file}` is {binary.machine}, which no node of Rung can run"
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


def check_kernels(claim: Claim, evidence: Readings) -> Iterator[str]:
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
        bits = ITEM_BITS.get(str(form.get("dtype")), 8)
        shape = form.get("shape")
        for extent in shape if isinstance(shape, list) else ():
            bits *= extent if isinstance(extent, int) else 1
        total += bits // 8
    return total


def _dicts(values: object) -> list[dict[str, object]]:
    items: Iterable[object] = values if isinstance(values, Iterable) else ()
    return [value for value in items if isinstance(value, dict)]
