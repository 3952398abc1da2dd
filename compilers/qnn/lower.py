"""QNN's build side: a variant → two HTP context binaries, one for a single token and one for S tokens.

Compiled on an x86-64 machine without the chip. The binaries hold the weights, so that new weights need a new
lowering. Beside each lie the few hundred bytes of ONNX that name it to the provider. What the provider
cannot take is an error: no node is ever left to the CPU.

Each of the two binaries holds all weights. One binary with both graphs (`ep.share_ep_contexts` and
`enable_htp_weight_sharing`) is half the size and compiles, but the emulation cannot load it, so that nothing
about it could be proven here.
"""

from __future__ import annotations

from pathlib import Path

from compilers.model.variant_files import read_variant_files
from compilers.plan_file import PLAN_NAME
from compilers.qnn.fallback import check_assignment, check_context, is_refusal
from compilers.qnn.provider import CHIPS, PROVIDER, HtpChip, Provider, chip_of, find_provider, find_version
from compilers.static.plan import STEPS, write_plan
from compilers.toolchain import Lowered, LoweringInput, Support, Supported, Unsupported, check_supported
from registry.artifact import ArtifactFormat, ModelFacts
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.target import Target
from registry.weight_form import CodedWeights, FloatWeights

ENTRY = "decode.onnx"
CONTEXT = 1024
"""Tokens that a row can hold, unless the checkpoint was made for fewer. Every place is computed on."""
TOKENS = 64
"""Tokens of one prefill step."""
OPSET = 21
"""First with 4-bit integers and 16-bit codes."""
IR_VERSION = 10


class QnnToolchain:
    """Lowers to Qualcomm's HTP."""

    name = "qnn"
    produces: ArtifactFormat = "qnn"
    embeds_weights = True

    def version(self) -> str:
        """Versions of onnxruntime-qnn and onnxruntime.

        Raises:
            ToolchainMissingError: They are not installed, or do not work together on this machine.
        """
        return find_version()

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """What HTP multiplies: floats of 16 bits, and integers with 16-bit activations."""
        if chip_of(target) is None:
            return Unsupported("never", f"`{target.name}` is not one of Qualcomm's HTPs ({', '.join(CHIPS)})")
        for form in recipe.forms:
            match form:
                case FloatWeights("float16") | CodedWeights(group_size=None, activations="int16-static"):
                    continue
                case FloatWeights():
                    return Unsupported("never", "HTP has no products in float32; take `fp16`")
                case CodedWeights(activations="int8-dynamic"):
                    return Unsupported("not_upstream", "HTP's scales are fixed when compiling; take `w8a16`")
                case CodedWeights():
                    return Unsupported(
                        "not_upstream",
                        f"QNN rejects weights with a scale per group, as in `{recipe.name}`; take "
                        f"`w{form.bits}a16`",
                    )
        return Supported()

    def lower(self, source: LoweringInput, target: Target, *, out: Path) -> Lowered:
        """Compile into the empty directory `out`.

        Raises:
            BuildError: The variant cannot be lowered, the compiler failed, or it left a node to the CPU.
            ToolchainMissingError: The provider is not installed.
        """
        check_supported(self, source, target)
        chip = CHIPS[target.architecture]
        provider = find_provider()
        files = [PLAN_NAME]
        for step, graph in write_graphs(source, out=out).items():
            files += _compile(graph, provider, chip, weights=source.weights, out=out / f"{step}.onnx")
        return Lowered(
            entry=ENTRY,
            files=tuple(sorted(files)),
            options={"htp_arch": chip.htp_arch, "soc_model": chip.soc_model},
        )


def write_graphs(source: LoweringInput, *, out: Path) -> dict[str, bytes]:
    """The graphs that are compiled, by step, as ONNX files; writes their plan into `out`.

    Raises:
        BuildError: The graph is not of the interchange form, or the weights file does not fit the recipe.
    """
    from compilers.qnn.linear import StaticLinears
    from compilers.static.graph import StaticForm, static_model, static_plan

    read = read_variant_files(source)
    network, layout = read.network, read.layout
    context = min(CONTEXT, source.facts.max_context)
    form = StaticForm(
        context=context,
        tokens=min(TOKENS, context),
        # Integer products take scales in the type of the activations, and need all of float32's digits.
        compute="float16" if source.recipe.weights == "float16" else "float32",
        ids="int32",
        opset=OPSET,
    )
    graphs = {}
    for step in STEPS:
        linears = None
        if source.recipe.activations == "int16-static":
            linears = StaticLinears(source.recipe, source.weights)
        model = static_model(network, layout, source.recipe, form=form, step=step, linears=linears)
        model.ir_version = IR_VERSION
        graphs[step] = model.SerializeToString(deterministic=True)
    write_plan(static_plan(network, form), out / PLAN_NAME)
    return graphs


def _compile(graph: bytes, provider: Provider, chip: HtpChip, *, weights: Path, out: Path) -> list[str]:
    """One graph to `{step}.onnx` and `{step}_qnn.bin`, whose names it returns."""
    try:
        session = provider.compile(graph, weights=weights, out=out, chip=chip)
    except Exception as error:  # onnxruntime raises a dozen unrelated classes
        what = "CPU fallback of an execution provider" if is_refusal(error) else "QNN cannot compile it"
        raise BuildError(
            f"graph `{out.stem}`: {what}: {error}",
            hint="the log names the nodes; take another recipe or target",
        ) from error
    check_assignment(session, provider=PROVIDER, where=f"graph `{out.stem}`")
    check_context(out)
    binary = out.with_name(f"{out.stem}_qnn.bin")
    if not binary.is_file():
        raise BuildError(f"graph `{out.stem}`: QNN wrote no context binary", hint="see the log of this build")
    return [out.name, binary.name]
