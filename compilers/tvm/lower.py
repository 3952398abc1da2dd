"""The TVM toolchain: interchange graph, layout of the weights and target → `model.so` and its plan.

The library holds compiled functions and no weights. Nothing of it depends on the weights' values, so a new version
of a checkpoint has the same library.
"""

from __future__ import annotations

import json
import struct
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compilers.toolchain import Lowered, Source, Support, Supported, Unsupported
from compilers.tvm.plan import LIBRARY_NAME, PLAN_NAME, TensorForm
from registry.artifact import ArtifactFormat, ModelFacts
from registry.errors import BuildError, ToolchainMissingError
from registry.recipe import Recipe
from registry.target import Target

if TYPE_CHECKING:
    from compilers.tvm.code import Machine

PACKAGES = ("apache-tvm", "apache-tvm-ffi")
TRIPLE = "x86_64-unknown-linux-gnu"


class TvmToolchain:
    """Builds artifacts of the format `tvm`."""

    name = "tvm"
    produces: ArtifactFormat = "tvm"

    def version(self) -> str:
        """Versions of TVM and of its function interface: `0.27.0.post1+ffi0.1.14.post0`.

        Raises:
            ToolchainMissingError: One of them is not installed.
        """
        return installed_version()

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """Whether this variant can be lowered to this target, and why not."""
        match target.kind:
            case "cpu" if target.architecture == "x86_64" and "avx2" in target.features:
                return Supported()
            case "cpu":
                return Unsupported(
                    "not_implemented", f"kernels are written for x86-64 with AVX2, not {target.architecture}"
                )
            case "cuda":
                return Unsupported("not_implemented", "kernels are written for CPUs; none for CUDA yet")
            case "rocm":
                return Unsupported("not_upstream", "the TVM wheel has no ROCm runtime to load the artifact")
            case "npu":
                return Unsupported("never", f"TVM has no code generator for {target.vendor} NPUs")

    def lower(self, source: Source, target: Target, *, out: Path) -> Lowered:
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
        from compilers.tvm.network import read_network
        from compilers.tvm.program import build_program

        network = read_network(source.graph)
        program = build_program(network, tensors=read_tensors(source.weights), machine=_machine(target))
        _compile(program.module, target, out / LIBRARY_NAME)
        (out / PLAN_NAME).write_text(program.plan.model_dump_json() + "\n", encoding="utf-8")
        return Lowered(entry=LIBRARY_NAME, files=(LIBRARY_NAME, PLAN_NAME))


def installed_version() -> str:
    """Versions of TVM and of its function interface, without importing them.

    Raises:
        ToolchainMissingError: One of them is not installed.
    """
    try:
        tvm, ffi = (metadata.version(package) for package in PACKAGES)
    except metadata.PackageNotFoundError as error:
        raise ToolchainMissingError(
            f"`{error.name}` is not installed", hint="install `rung[serve]` or `rung[build]`"
        ) from error
    return f"{tvm}+ffi{ffi}"


def read_tensors(path: Path) -> dict[str, TensorForm]:
    """Names, types and shapes of a safetensors file, from its header alone.

    Raises:
        BuildError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            (length,) = struct.unpack("<Q", stream.read(8))
            header: dict[str, Any] = json.loads(stream.read(length))  # Any: parsed JSON
        return {
            name: TensorForm(dtype=entry["dtype"], shape=tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise BuildError(
            f"cannot read the weights `{path}`: {error}", hint="quantize the checkpoint again"
        ) from error


def _machine(target: Target) -> Machine:
    from compilers.tvm.code import Machine

    wide = "avx512f" in target.features
    return Machine(16 if wide else 8, 32 if wide else 16, "avx512_vnni" in target.features)


def _compile(module: Any, target: Target, path: Path) -> None:  # Any: tvm.IRModule
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
        ]
    )
    llvm = tvm.target.Target({"kind": "llvm", "mcpu": target.llvm_cpu, "mtriple": TRIPLE})
    keep_locals = {"tirx.disable_storage_rewrite": True}  # see `code.local`
    try:
        with tvm.transform.PassContext(opt_level=3, config=keep_locals):
            executable = relax.build(module, llvm, relax_pipeline=passes)
        executable.export_library(str(path))
    except (RuntimeError, ValueError, TypeError, OSError) as error:  # what TVM raises, and its linker
        raise BuildError(
            f"tvm could not compile for `{target.name}`: {error}",
            hint="see the log; a C compiler (`cc`) must be on PATH for linking",
        ) from error
