"""ONNX Runtime's build side: the interchange graph, rewritten into the operators that its CPU kernels fuse.

The result is one small `model.onnx` whose weights are references into the canonical `weights.safetensors`;
this toolchain writes no weights of its own. What changes against the interchange form:

- Tokens of all rows are packed into one dimension, so that matrix products see no padding. Around attention
  they are spread to [rows, seq] and packed again.
- Attention is `GroupQueryAttention` with rotary positions inside and with the KV cache in shared buffers;
  rows of one call may be at different lengths, bring different numbers of tokens, or none (`query_seqlens`).
- Queries, keys and values are one product where their weights lie one after the other.
- Integer weights go to `MatMulNBits`, with integer activations per block of each token. `w8a8-dynamic`
  quantizes activations per token, so that no result depends on what else is in the batch (the stock dynamic
  quantization scales by the whole tensor's range). Inputs with outliers are two rows of 8 bits whose products
  are added: `MatMulNBits` with float inputs (`accuracy_level` 1) takes 300 times as long for 8-bit codes.

Inputs of the graph: input_ids int64 [tokens]; spread int64 [rows, seq], for each place its token; pack int64
[tokens], for each token its place in rows·seq; query_lengths int32 [rows]; last_positions int32 [rows]; total
int32 []; logit_index int64 [wanted]; past.{i}.key and .value float32 [rows, kv_heads, capacity, head_size].
Outputs: logits float32 [wanted, vocab]; present.{i}.key and .value, bound to the memory of their pasts.
"""

from __future__ import annotations

from pathlib import Path

from compilers.installed import required_version
from compilers.model.variant_files import build_layout
from compilers.toolchain import Lowered, LoweringInput, Support, Supported, Unsupported
from registry.artifact import ArtifactFormat, ModelFacts
from registry.atomic import write_atomically
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.target import Target

ENTRY = "model.onnx"


class OnnxRuntimeToolchain:
    """Lowers to ONNX Runtime's CPU execution provider, which chooses kernels by the processor."""

    name = "onnxruntime"
    produces: ArtifactFormat = "onnxruntime"
    embeds_weights = False

    def version(self) -> str:
        """Version of onnxruntime.

        Raises:
            ToolchainMissingError: It, or onnx, is not installed, or in a version that does not work.
        """
        required_version("onnx", versions=">=1.20", extra="build")
        return required_version("onnxruntime", "onnxruntime-gpu", versions=">=1.32", extra="build")

    def supports(self, recipe: Recipe, target: Target, facts: ModelFacts) -> Support:
        """Every recipe on every CPU target, but for static activations."""
        if target.kind == "cpu" and recipe.activations == "int16-static":
            return Unsupported(
                kind="not_upstream",
                reason=f"`{recipe.name}` multiplies 16-bit activations, and the CPU execution provider has "
                "no kernel for that: it would compute in float32",
            )
        if target.kind == "cpu":
            return Supported()
        return Unsupported(
            kind="not_implemented",
            reason=f"only ONNX Runtime's CPU execution provider is wired up, and `{target.name}` is a "
            f"{target.kind} target; a provider that fails would fall back to the CPU in silence",
        )

    def lower(self, source: LoweringInput, target: Target, *, out: Path) -> Lowered:
        """Write `model.onnx` into `out`.

        Raises:
            BuildError: It is not supported, the graph is not an interchange graph, or the weights file does
                not fit the recipe.
            ToolchainMissingError: onnx or onnxruntime is not installed.
        """
        support = self.supports(source.recipe, target, source.facts)
        if isinstance(support, Unsupported):
            raise BuildError(
                f"onnxruntime cannot lower to `{target.name}`: {support.reason}", hint="choose another target"
            )
        self.version()
        import onnx

        from compilers.onnxruntime.emit import lower_graph

        try:
            graph = onnx.load(source.graph, load_external_data=False).graph
        except Exception as error:  # protobuf raises a class of its own per implementation
            raise BuildError(
                f"`{source.graph}` cannot be read as ONNX: {error}", hint="export the checkpoint again"
            ) from error
        model = lower_graph(
            graph, layout=build_layout(source.weights), recipe=source.recipe, facts=source.facts
        )
        write_atomically(out / ENTRY, model.SerializeToString(deterministic=True))
        return Lowered(entry=ENTRY, files=(ENTRY,), options={"kv_type": "float32"})
