"""The TVM toolchain: checks a variant against its target and lowers it to a CPU or to a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from compilers.toolchain import Lowered, LoweringInput, Support, Unsupported, check_supported
from compilers.tvm.common.forms import StoredForms, forms_of
from compilers.tvm.common.library import installed_version
from compilers.tvm.cpu.lower import lower_cpu, supports_cpu
from compilers.tvm.gpu.lower import lower_gpu, supports_gpu
from registry.artifact import ArtifactFormat, ModelFacts
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.target import Target

if TYPE_CHECKING:
    from compilers.model.network import Network


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
            case "cpu":
                return supports_cpu(target)
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
        check_supported(self, source, target)
        installed_version()
        from compilers.model.variant_files import read_variant_files

        read = read_variant_files(source)
        network, forms = read.network, StoredForms(forms_of(read.layout), read.layout.wide_inputs)
        _check_facts(network, source.facts)
        if target.kind == "cpu":
            return lower_cpu(network, forms, target, out=out)
        return lower_gpu(network, forms.tensors, target, out=out)


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
