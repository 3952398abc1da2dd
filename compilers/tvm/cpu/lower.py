"""Lowering to CPUs (AVX2, AVX-512, NEON): interchange graph and weight layout → `model.so` and its plan.

The library holds compiled functions and no weights. Nothing in it depends on the weights' values, so a new
version of a checkpoint has the same library.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilers.model.network import Network
from compilers.plan_file import PLAN_NAME
from compilers.toolchain import Lowered, Support, Supported, Unsupported
from compilers.tvm.common.forms import StoredForms
from compilers.tvm.cpu.link import OPTIONS, find_linker
from compilers.tvm.cpu.plan import LIBRARY_NAME
from registry.errors import BuildError
from registry.target import Target

if TYPE_CHECKING:
    from compilers.tvm.cpu.code import VectorUnit

Module = Any
"""A `tvm.IRModule`; TVM ships no types."""
TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


def supports_cpu(target: Target) -> Support:
    """Whether kernels exist for a processor."""
    match target.architecture:
        case "x86_64" if "avx2" in target.features:
            return Supported()
        case "aarch64" if "asimd" in target.features:
            return Supported()
        case _:
            return Unsupported(
                "not_implemented",
                f"kernels are written for x86-64 with AVX2 and for AArch64, not {target.architecture}",
            )


def lower_cpu(network: Network, stored: StoredForms, target: Target, *, out: Path) -> Lowered:
    """Compile into the empty directory `out`.

    Raises:
        BuildError: The compiler or the linker failed.
        ToolchainMissingError: No C compiler for linking is installed.
    """
    from compilers.tvm.cpu.program import build_program

    program = build_program(network, stored=stored, machine=machine_of(target))
    _compile(program.module, target, out / LIBRARY_NAME)
    (out / PLAN_NAME).write_text(program.plan.model_dump_json() + "\n", encoding="utf-8")
    return Lowered(entry=LIBRARY_NAME, files=(LIBRARY_NAME, PLAN_NAME))


def machine_of(target: Target) -> VectorUnit:
    """The vector unit (AVX2, AVX-512, NEON) that kernels are generated for."""
    from compilers.tvm.cpu.code import NEON_LANES, VectorUnit

    if target.architecture == "aarch64":
        return VectorUnit(NEON_LANES, 32, "asimddp" in target.features)
    wide = "avx512f" in target.features
    return VectorUnit(16 if wide else 8, 32 if wide else 16, "avx512_vnni" in target.features)


def _compile(module: Module, target: Target, path: Path) -> None:
    import tvm
    from tvm import relax

    passes = tvm.transform.Sequential(
        [
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.ComputePrimValue(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
            tvm.transform.module_pass(_in_order, opt_level=0),
        ]
    )
    llvm = tvm.target.Target(
        {"kind": "llvm", "mcpu": target.llvm_cpu, "mtriple": TRIPLES[target.architecture]}
    )
    linker = find_linker(target.architecture)
    keep_locals = {"tirx.disable_storage_rewrite": True}  # see `code.local`
    try:
        with tvm.transform.PassContext(opt_level=3, config=keep_locals):
            executable = relax.build(module, llvm, relax_pipeline=passes)
        executable.export_library(
            str(path), fcompile=None if linker is None else linker.link, options=list(OPTIONS)
        )
    except (RuntimeError, ValueError, TypeError, OSError) as error:  # what TVM raises, and its linker
        raise BuildError(
            f"tvm could not compile for `{target.name}`: {error}",
            hint="see the log; a C compiler (`cc`) must be on PATH for linking",
        ) from error


def _in_order(module: Module, _: object) -> Module:
    """Sort the statements of shape functions: `VMShapeLower` emits them in the order of a hash table."""
    from tvm import tirx

    for name, function in module.functions_items():
        if name.name_hint.startswith("shape_func") and isinstance(function.body, tirx.SeqStmt):
            steps = sorted(function.body.seq, key=lambda step: int(step.indices[0]))
            module.update_func(name, function.with_body(tirx.SeqStmt(steps)))
    return module
