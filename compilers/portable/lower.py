"""Portable toolchains: a static graph that a vendor's compiler takes, and the command that compiles it there.

For NPUs whose compilers cannot be had on a build machine: Huawei's Ascend (CANN's ATC) and Intel's NPU
(OpenVINO with the NPU's driver). The artifact is two plain ONNX graphs, for one token and for S tokens, over
the canonical weights file; every operator is on the vendor's list. They contain no machine code, and do not
claim to: a node compiles them (`node_compile.py`) before they can run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compilers.installed import required_version
from compilers.model.variant_files import read_variant_files
from compilers.plan_file import PLAN_NAME
from compilers.portable.node_compile import OPTION
from compilers.portable.operators import check_operators, find_allow_list
from compilers.static.plan import STEPS, write_plan
from compilers.toolchain import (
    Lowered,
    LoweringInput,
    Support,
    Supported,
    Unsupported,
    check_supported,
)
from registry.artifact import ArtifactFormat, ModelFacts
from registry.atomic import write_atomically
from registry.recipe import Recipe
from registry.target import Target

ENTRY = "decode.onnx"
CONTEXT = 1024
"""Tokens that a row can hold, unless the checkpoint was made for fewer. Every place is computed on."""
TOKENS = 64
"""Tokens of one prefill step."""
OPSET = 18
"""The newest that both vendors take."""


@dataclass(frozen=True, slots=True)
class PortableToolchain:
    """Writes ONNX graphs that a vendor's own compiler turns into machine code on the node."""

    name: str
    """Also selects the list of operators that the compiler takes."""
    vendor: str
    """Of the NPUs that are lowered to, as in `targets.toml`."""
    command: Callable[[str], list[str]]
    """The compiler's command for the graph of one step."""
    produces: ArtifactFormat = "portable"
    embeds_weights: bool = False

    def version(self) -> str:
        """Version of onnx, which writes the graphs.

        Raises:
            ToolchainMissingError: It is not installed.
        """
        return required_version("onnx", versions=">=1.20", extra="build")

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """Floating-point recipes on the vendor's NPUs."""
        if target.kind != "npu" or target.vendor != self.vendor:
            return Unsupported("never", f"`{target.name}` is not an NPU from {self.vendor}")
        if recipe.is_quantized:
            return Unsupported(
                "not_implemented",
                f"integer weights of `{recipe.name}` would need the vendor's own quantizer on the node; "
                "take `fp32` or `fp16`",
            )
        return Supported()

    def lower(self, source: LoweringInput, target: Target, *, out: Path) -> Lowered:
        """Write the graphs into the empty directory `out`.

        Raises:
            BuildError: The compiler's list lacks an operator, or the variant does not fit.
            ToolchainMissingError: onnx is not installed.
        """
        check_supported(self, source, target)
        self.version()
        from compilers.static.graph import StaticForm, static_model, static_plan

        allowed = find_allow_list(self.name)
        read = read_variant_files(source)
        network, layout = read.network, read.layout
        context = min(CONTEXT, source.facts.max_context)
        form = StaticForm(
            context=context,
            tokens=min(TOKENS, context),
            compute="float16" if source.recipe.weights == "float16" else "float32",
            ids="int32",
            opset=OPSET,
        )
        for step in STEPS:
            model = static_model(network, layout, source.recipe, form=form, step=step)
            check_operators(model, allowed, where=f"graph `{step}`")
            write_atomically(out / f"{step}.onnx", model.SerializeToString(deterministic=True))
        write_plan(static_plan(network, form), out / PLAN_NAME)
        commands = " && ".join(shlex.join(self.command(step)) for step in STEPS)
        return Lowered(
            entry=ENTRY,
            files=tuple(sorted([*(f"{step}.onnx" for step in STEPS), PLAN_NAME])),
            options={OPTION: commands},
        )


def cann_toolchain() -> PortableToolchain:
    """Huawei's Ascend NPUs, compiled by CANN's ATC on the node."""
    return PortableToolchain("cann", "huawei", _atc)


def openvino_toolchain() -> PortableToolchain:
    """Intel's NPUs, compiled by OpenVINO's compile tool on the node."""
    return PortableToolchain("openvino", "intel", _compile_tool)


def _atc(step: str) -> list[str]:
    """ATC's command for one graph.

    Shapes are fixed in the graph, where `--input_shape` is optional. The default precision is `fp16` even for
    graphs in float32; `origin` keeps what was evaluated. Source: pages `atlasatcparam_16_0016` and `…_0069`
    of https://www.hiascend.com/document/detail/en/canncommercial/850/devaids/atctool.
    """
    return [
        "atc", f"--model={{bundle}}/{step}.onnx", "--framework=5", f"--output={{out}}/{step}",
        "--soc_version=Ascend910B1", "--input_format=ND", "--precision_mode_v2=origin",
    ]  # fmt: skip


def _compile_tool(step: str) -> list[str]:
    """The command of OpenVINO's NPU compile tool for one graph.

    Source: https://github.com/openvinotoolkit/openvino/tree/master/src/plugins/intel_npu/tools/compile_tool.
    """
    return ["compile_tool", "-m", f"{{bundle}}/{step}.onnx", "-d", "NPU", "-o", f"{{out}}/{step}.blob"]
