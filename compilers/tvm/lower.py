"""The TVM toolchain: interchange graph, layout of the weights and target → `model.so` and its plan.

The library holds compiled functions and no weights. Nothing of it depends on the weights' values, so a new
version of a checkpoint has the same library.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilers.plan_file import PLAN_NAME
from compilers.toolchain import Lowered, LoweringInput, Support, Supported, Unsupported
from compilers.tvm.common.forms import forms_of
from compilers.tvm.common.library import installed_version
from compilers.tvm.cpu.link import OPTIONS, find_linker
from compilers.tvm.cpu.plan import LIBRARY_NAME
from compilers.tvm.gpu.lower import lower_gpu, supports_gpu
from registry.artifact import ArtifactFormat, ModelFacts
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.target import Target

if TYPE_CHECKING:
    from compilers.model.network import Network
    from compilers.tvm.cpu.code import VectorUnit

Module = Any
"""A `tvm.IRModule`; TVM ships no types."""
TRIPLES = {"x86_64": "x86_64-unknown-linux-gnu", "aarch64": "aarch64-unknown-linux-gnu"}


class TvmToolchain:
    """Builds artifacts of the format `tvm`."""

    name = "tvm"
    produces: ArtifactFormat = "tvm"
    embeds_weights = False

    def version(self) -> str:
        """Versions of TVM and of its function interface: `0.27.0.post1+ffi0.1.14.post0`.

        Raises:
            ToolchainMissingError: One of them is not installed.
        """
        return installed_version()

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """Whether this variant can be lowered to this target, and why not."""
        if recipe.activations == "int16-static":
            return Unsupported(
                "not_implemented", f"kernels are not written for the 16-bit activations of `{recipe.name}`"
            )
        match target.kind:
            case "cpu" if target.architecture == "x86_64" and "avx2" in target.features:
                return Supported()
            case "cpu" if target.architecture == "aarch64" and "asimd" in target.features:
                return Supported()
            case "cpu":
                return Unsupported(
                    "not_implemented",
                    f"kernels are written for x86-64 with AVX2 and for AArch64, not {target.architecture}",
                )
            case "cuda" | "rocm":
                return supports_gpu(recipe)
            case "vulkan":
                return Unsupported("not_upstream", "TVM's Vulkan code generator is not in its wheel")
            case "npu":
                return Unsupported("never", f"TVM has no code generator for {target.vendor} NPUs")

    def lower(self, source: LoweringInput, target: Target, *, out: Path) -> Lowered:
        """Compile into the empty directory `out`.

        Raises:
            BuildError: The graph is not of the interchange form, or the compiler failed.
            ToolchainMissingError: TVM, onnx or a C compiler for linking is not installed.
        """
        support = self.supports(source.recipe, target, source.facts)
        if isinstance(support, Unsupported):
            raise BuildError(
                f"tvm cannot lower to `{target.name}`: {support.reason}", hint="choose another target"
            )
        installed_version()
        from compilers.model.variant_files import read_variant_files

        read = read_variant_files(source)
        network, forms = read.network, forms_of(read.layout)
        _check_facts(network, source.facts)
        if target.kind != "cpu":
            return lower_gpu(network, forms, target, out=out)
        from compilers.tvm.cpu.program import build_program

        program = build_program(network, tensors=forms, machine=machine_of(target))
        _compile(program.module, target, out / LIBRARY_NAME)
        (out / PLAN_NAME).write_text(program.plan.model_dump_json() + "\n", encoding="utf-8")
        return Lowered(entry=LIBRARY_NAME, files=(LIBRARY_NAME, PLAN_NAME))


def _check_facts(network: Network, facts: ModelFacts) -> None:
    found = {
        "layers": len(network.layers),
        "vocab_size": network.vocab_size,
        "hidden_size": network.hidden,
        "heads": network.heads,
        "kv_heads": network.kv_heads,
        "head_size": network.head_size,
    }
    for name, value in found.items():
        if value != getattr(facts, name):
            raise BuildError(
                f"the graph has {name} {value}, the model's facts say {getattr(facts, name)}",
                hint="export the checkpoint again",
            )


def machine_of(target: Target) -> VectorUnit:
    """What kernels must know of a target."""
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
