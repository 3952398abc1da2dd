"""The IREE toolchain: interchange graph, layout of the weights and target → `decoder.vmfb` and its plan.

The module holds machine code (PTX for CUDA, SPIR-V for Vulkan) and no weights: they are parameters, which
the runtime takes from the canonical file by name. Neither import nor compilation reads a weight.

Arithmetic is in float32 for every recipe: fp16 weights are widened and integer ones dequantized inside the
kernels that use them.
"""

from __future__ import annotations

import subprocess
from importlib import util
from pathlib import Path

from compilers.iree.binaries import embedded_binaries
from compilers.iree.package import COMPILER, installed_version
from compilers.iree.target import CODE, CUDA_KNOWN, compiler_flags
from compilers.plan_file import PLAN_NAME
from compilers.static.plan import STEPS, write_plan
from compilers.toolchain import Lowered, LoweringInput, Support, Supported, Unsupported, check_supported
from registry.artifact import ArtifactFormat, ModelFacts
from registry.errors import BuildError, CorruptError, ToolchainMissingError
from registry.recipe import Recipe
from registry.target import Target
from registry.weight_form import EMBEDDING, CodedWeights

MODULE_NAME = "decoder.vmfb"
CONTEXT = 1024
"""Longest context of an artifact, in tokens: every step takes a cache of this size."""
PREFILL_TOKENS = 64
LOG_LINES = 20
"""Of the compiler's messages, in an error; they are followed by the whole module."""
FLAGS = (
    "--iree-input-type=onnx",
    # Parameters are not there to be evaluated; results of it would hold on to the values.
    "--iree-opt-const-eval=false",
    # Widened or dequantized copies of weights would multiply the memory.
    "--iree-opt-const-expr-max-size-increase-threshold=0",
    # The file is a ZIP archive as well, whose entries are the executables: `unzip` opens the proof.
    "--iree-vm-emit-polyglot-zip=true",
    "--iree-vm-bytecode-module-strip-source-map=true",
    "--iree-vm-bytecode-module-strip-debug-ops=true",
    "--iree-hal-executable-debug-level=0",
)


class IreeToolchain:
    """Builds artifacts of the format `iree`."""

    name = "iree"
    produces: ArtifactFormat = "iree"
    embeds_weights = False

    def version(self) -> str:
        """Version of IREE's compiler.

        Raises:
            ToolchainMissingError: It is not installed, or of another series.
        """
        return installed_version(COMPILER)

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """Whether this variant can be lowered to this target, and why not."""
        if recipe.activations != "float":
            return Unsupported(
                "not_implemented", "products of integer activations are not written for IREE yet"
            )
        embedding = recipe.form(EMBEDDING)
        match target.kind:
            case "vulkan" if isinstance(embedding, CodedWeights) and embedding.codes_per_byte > 1:
                return Unsupported(
                    "not_upstream",
                    "IREE's SPIR-V generator fails on the lookup of 4-bit rows (`vector.broadcast`, in 3.13)",
                )
            case "cpu" | "vulkan":
                return Supported()
            case "cuda" | "rocm" if len(target.architectures) > 1:
                return Unsupported("not_implemented", "one module for several architectures is not wired up")
            case "cuda" if target.architecture not in CUDA_KNOWN:
                return Unsupported(
                    "not_upstream",
                    f"IREE has no description of {target.architecture}; it ends at {CUDA_KNOWN[-1]}, whose "
                    "PTX the driver of a later chip compiles",
                )
            case "cuda" | "rocm":
                return Supported()
            case "npu":
                return Unsupported("never", f"IREE has no code generator for {target.vendor} NPUs")

    def lower(self, source: LoweringInput, target: Target, *, out: Path) -> Lowered:
        """Compile into the empty directory `out`.

        Raises:
            BuildError: The graph is not of the interchange form, or the compiler failed.
            ToolchainMissingError: IREE's compiler or onnx is not installed.
        """
        check_supported(self, source, target)
        installed_version(COMPILER)
        from compilers.iree.module import import_graphs
        from compilers.model.variant_files import read_variant_files
        from compilers.static.graph import StaticForm, static_model, static_plan

        read = read_variant_files(source)
        network, layout = read.network, read.layout
        form = StaticForm(context=min(CONTEXT, source.facts.max_context), tokens=PREFILL_TOKENS)
        models = {step: static_model(network, layout, source.recipe, form=form, step=step) for step in STEPS}
        _compile(import_graphs(models), target, source.recipe, out / MODULE_NAME)
        _check_code(out / MODULE_NAME, target)
        write_plan(static_plan(network, form), out / PLAN_NAME)
        return Lowered(entry=MODULE_NAME, files=(MODULE_NAME, PLAN_NAME), options={"context": form.context})


def _compile(text: str, target: Target, recipe: Recipe, path: Path) -> None:
    """Run IREE's compiler; the module comes from standard input, so that no path of it is known."""
    command = [str(_compiler()), *FLAGS, *compiler_flags(target, recipe), "-", "-o", str(path)]
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ToolchainMissingError(
            f"`{command[0]}` does not run: {error}", hint="install `rung[iree]` again"
        ) from error
    if done.returncode != 0:
        path.unlink(missing_ok=True)
        said = "\n".join(line[:300] for line in done.stderr.splitlines()[:LOG_LINES])
        how = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
        raise BuildError(
            f"IREE could not compile for `{target.name}` ({how}): {said or 'it said nothing'}",
            hint="see the log; with a signal 9 the machine's memory was too small",
        )


def _check_code(path: Path, target: Target) -> None:
    """Refuse a module with other code than the target's: IREE could also embed portable bytecode."""
    try:
        kinds = {binary.kind for binary in embedded_binaries(path)}
    except CorruptError as error:
        raise BuildError(error.message, hint="see the log of this stage") from error
    if kinds != {CODE[target.kind]}:
        raise BuildError(
            f"`{path.name}` for `{target.name}` holds {', '.join(sorted(kinds)) or 'no machine code'}",
            hint="this version of IREE compiles otherwise than expected; report it",
        )


def _compiler() -> Path:
    """The compiler's program inside its package."""
    found = util.find_spec("iree.compiler")
    for folder in () if found is None else found.submodule_search_locations or ():
        program = Path(folder) / "_mlir_libs" / "iree-compile"
        if program.is_file():
            return program
    raise ToolchainMissingError(
        "IREE's compiler has no program `iree-compile`", hint="install `rung[iree]` again"
    )
