"""The static graphs: a decoder as plain ONNX with fixed shapes, one token or S tokens at a time.

For compilers that take neither symbolic shapes nor fused attention (QNN, IREE, Ascend, OpenVINO's NPU). The
cache stays outside: a graph takes the keys and values of C places, of which masks hide the empty ones, and
returns those of its own tokens alone. Queries that share a key head are rows of one product, so nothing is
repeated. Weights are references into the canonical `weights.safetensors`; equal architecture, layout and
form give equal bytes.

Inputs and outputs are those of `compilers/static/plan.py`. Node names are those of the interchange graph
where both have the node (`layers.{i}.q_proj`, `…attention`, `…mlp_residual`, `lm_head` …). Only `OPERATORS`
occur, all of ONNX's own domain, from opset 18 on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from compilers.model.network import Layer, Linear, Network, Norm
from compilers.model.variant_files import read_variant_files
from compilers.model.weights import Layout
from compilers.plan_file import PLAN_NAME
from compilers.static.embedding import embedded
from compilers.static.emit import FLOATS, Emitter
from compilers.static.linear import DequantizedLinears, Linears
from compilers.static.plan import STEPS, Compute, Ids, Mask, StaticPlan, write_plan
from compilers.toolchain import LoweringInput
from registry.atomic import write_atomically
from registry.errors import BuildError
from registry.recipe import Recipe

OPERATORS = frozenset(
    {
        "Add", "Cast", "Concat", "Div", "Gather", "Gemm", "MatMul", "Mul", "ReduceMean", "Reshape", "Sigmoid",
        "Slice", "Softmax", "Sqrt", "Sub", "Transpose",
    }
)  # fmt: skip
"""What graphs with floating-point or grouped 8-bit weights are made of."""
NIBBLE_OPERATORS = OPERATORS | {"Floor"}
"""With 4-bit weights."""
ROUNDING_OPERATORS = OPERATORS | {"Abs", "Max", "ReduceMax", "Round"}
"""With activations rounded per token (w8a8)."""
OLDEST_OPSET = 18
"""ReduceMean takes its axes as an input from here on."""
IR_VERSION = 9


@dataclass(frozen=True, slots=True)
class StaticForm:
    """The choices that a consumer has."""

    context: int
    """Tokens that a row can hold, C; bounded by what the checkpoint was made for."""
    tokens: int
    """Tokens of one prefill step, S."""
    compute: Compute = "float32"
    """Type of activations, products and the cache; norms and softmax are float32 in any case."""
    ids: Ids = "int64"
    opset: int = 20


def write_static(
    source: LoweringInput, form: StaticForm, *, out: Path, linears: Linears | None = None
) -> StaticPlan:
    """Write `decode.onnx`, `prefill.onnx` and `plan.json` for a variant into `out`.

    The graphs refer to `weights.safetensors` in their own directory, which is not written.

    Raises:
        BuildError: The graph is not of the interchange form, or the weights file does not fit it.
        ToolchainMissingError: `onnx` is not installed.
    """
    read = read_variant_files(source)
    network, layout = read.network, read.layout
    plan = static_plan(network, form)
    for step in STEPS:
        model = static_model(network, layout, source.recipe, form=form, step=step, linears=linears)
        write_atomically(out / f"{step}.onnx", model.SerializeToString(deterministic=True))
    write_plan(plan, out / PLAN_NAME)
    return plan


def static_plan(network: Network, form: StaticForm) -> StaticPlan:
    """The plan of a network's graphs."""
    return StaticPlan(
        vocab_size=network.vocab_size,
        layers=len(network.layers),
        kv_heads=network.kv_heads,
        head_size=network.head_size,
        context=form.context,
        tokens=form.tokens,
        compute=form.compute,
        ids=form.ids,
        masks=tuple(Mask(name=_mask_name(window), window=window) for window in _windows(network)),
        inv_freq=network.inv_freq,
        rope_scale=network.rope_scale,
    )


def static_model(
    network: Network,
    layout: Layout,
    recipe: Recipe,
    *,
    form: StaticForm,
    step: str,
    linears: Linears | None = None,
) -> onnx.ModelProto:
    """One graph.

    Args:
        network: The decoder.
        layout: Of the weights file that the graph refers to.
        recipe: What the file's codes mean.
        form: The consumer's choices.
        step: `decode` or `prefill`.
        linears: How products are written; dequantized in the graph if None.

    Raises:
        BuildError: The opset is too old, the recipe needs float32, or the weights file lacks a tensor.
    """
    if form.opset < OLDEST_OPSET:
        raise BuildError(f"static graphs in opset {form.opset}", hint=f"use opset {OLDEST_OPSET} or newer")
    if recipe.activations == "int8-dynamic" and form.compute != "float32":
        raise BuildError(
            f"`{recipe.name}` in {form.compute}: sums of integer products exceed it",
            hint="compute in float32",
        )
    plan = static_plan(network, form)
    tokens = 1 if step == "decode" else form.tokens
    emitter = Emitter(layout, form.compute)
    _Decoder(emitter, network, recipe, linears, tokens, form.context).write()
    return helper.make_model(
        helper.make_graph(
            emitter.nodes, step, _inputs(plan, tokens), _outputs(plan, tokens), emitter.initializers
        ),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", form.opset)],
        producer_name="rung",
    )


def _windows(network: Network) -> list[int | None]:
    return sorted({layer.window for layer in network.layers}, key=lambda window: window or 0)


def _mask_name(window: int | None) -> str:
    return "mask" if window is None else f"mask.window.{window}"


def _inputs(plan: StaticPlan, tokens: int) -> list[onnx.ValueInfoProto]:
    half, places = plan.head_size // 2, plan.context + tokens
    shapes = {"input_ids": [1, tokens], "cos": [tokens, half], "sin": [tokens, half]}
    shapes.update({mask.name: [tokens, places] for mask in plan.masks})
    state = [plan.kv_heads, plan.context, plan.head_size]
    kinds = {"input_ids": TensorProto.INT64 if plan.ids == "int64" else TensorProto.INT32}
    return [
        helper.make_tensor_value_info(name, kinds.get(name, FLOATS[plan.compute]), shapes.get(name, state))
        for name in plan.inputs()
    ]


def _outputs(plan: StaticPlan, tokens: int) -> list[onnx.ValueInfoProto]:
    logits, *states = plan.outputs()
    shape = [plan.kv_heads, tokens, plan.head_size]
    return [
        helper.make_tensor_value_info(logits, TensorProto.FLOAT, [tokens, plan.vocab_size]),
        *(helper.make_tensor_value_info(name, FLOATS[plan.compute], shape) for name in states),
    ]


class _Decoder:
    """Writes the nodes; activations are [S, hidden], in attention [kv_heads, group · S, head_size]."""

    def __init__(
        self,
        graph: Emitter,
        network: Network,
        recipe: Recipe,
        linears: Linears | None,
        tokens: int,
        context: int,
    ) -> None:
        self.graph = graph
        self.recipe = recipe
        self.network = network
        self.linears = linears or DequantizedLinears(recipe)
        self.tokens = tokens
        self.context = context

    def write(self) -> None:
        """All of it."""
        graph, network = self.graph, self.network
        ids = graph.reshape("input_ids", (self.tokens,), "token_ids")
        hidden = embedded(graph, ids, network, self.recipe, tokens=self.tokens)
        for index, layer in enumerate(network.layers):
            hidden = self._layer(hidden, index, layer)
        normed = self._norm(hidden, network.final_norm, "final_norm")
        logits = self.linears.emit(graph, normed, network.lm_head, name="lm_head")
        if graph.compute == "float32":
            graph.nodes[-1].output[0] = "logits"
        else:
            graph.node("Cast", [logits], "logits", to=TensorProto.FLOAT)

    def _layer(self, hidden: str, index: int, layer: Layer) -> str:
        graph, at = self.graph, f"layers.{index}"
        normed = self._norm(hidden, layer.input_norm, f"{at}.input_norm")
        attended = self._attention(normed, index, layer)
        out = self.linears.emit(graph, attended, layer.o, name=f"{at}.o_proj")
        hidden = graph.node("Add", [hidden, out], f"{at}.attention_residual")
        normed = self._norm(hidden, layer.post_norm, f"{at}.post_norm")
        gate = self.linears.emit(graph, normed, layer.gate, name=f"{at}.gate_proj")
        up = self.linears.emit(graph, normed, layer.up, name=f"{at}.up_proj")
        sigmoid = graph.node("Sigmoid", [gate], f"{at}.activation.sigmoid")
        silu = graph.node("Mul", [gate, sigmoid], f"{at}.activation.silu")
        active = graph.node("Mul", [silu, up], f"{at}.activation")
        down = self.linears.emit(graph, active, layer.down, name=f"{at}.down_proj")
        return graph.node("Add", [hidden, down], f"{at}.mlp_residual")

    def _attention(self, normed: str, index: int, layer: Layer) -> str:
        graph, network, at = self.graph, self.network, f"layers.{index}"
        heads, kv_heads, size, tokens = network.heads, network.kv_heads, network.head_size, self.tokens
        places = self.context + tokens
        query = self._heads(normed, layer.q, layer.q_norm, f"{at}.q", heads)
        scale = graph.number("attention.scale", size**-0.5)
        query = graph.node("Mul", [self._turned(query, f"{at}.q"), scale], f"{at}.q_scaled")
        query = graph.reshape(query, (kv_heads, heads // kv_heads * tokens, size), f"{at}.q_rows")
        key = self._turned(self._heads(normed, layer.k, layer.k_norm, f"{at}.k", kv_heads), f"{at}.k")
        value = self._heads(normed, layer.v, None, f"{at}.v", kv_heads)
        graph.reshape(key, (kv_heads, tokens, size), f"new.{index}.key")
        graph.reshape(value, (kv_heads, tokens, size), f"new.{index}.value")
        keys = graph.node("Concat", [f"past.{index}.key", f"new.{index}.key"], f"{at}.keys", axis=1)
        values = graph.node("Concat", [f"past.{index}.value", f"new.{index}.value"], f"{at}.values", axis=1)
        columns = graph.node("Transpose", [keys], f"{at}.columns", perm=[0, 2, 1])
        scores = graph.node("MatMul", [query, columns], f"{at}.scores")
        scores = graph.reshape(scores, (heads, tokens, places), f"{at}.scores_by_head")
        scores = graph.node("Add", [scores, _mask_name(layer.window)], f"{at}.masked")
        scores = self._cast(scores, FLOATS[graph.compute], TensorProto.FLOAT)
        shares = graph.node("Softmax", [scores], f"{at}.shares", axis=-1)
        shares = self._cast(shares, TensorProto.FLOAT, FLOATS[graph.compute])
        shares = graph.reshape(
            shares, (kv_heads, heads // kv_heads * tokens, places), f"{at}.shares_by_group"
        )
        mixed = graph.node("MatMul", [shares, values], f"{at}.attention")
        mixed = graph.reshape(mixed, (heads, tokens, size), f"{at}.attention_by_head")
        mixed = graph.node("Transpose", [mixed], f"{at}.attention_by_token", perm=[1, 0, 2])
        return graph.reshape(mixed, (tokens, heads * size), f"{at}.attended")

    def _heads(self, normed: str, linear: Linear, norm: Norm | None, name: str, heads: int) -> str:
        """A projection as [heads, S, head_size], normalised per head where the architecture does that."""
        graph = self.graph
        rows = self.linears.emit(graph, normed, linear, name=f"{name}_proj")
        rows = graph.reshape(rows, (self.tokens, heads, self.network.head_size), f"{name}_heads")
        if norm is not None:
            rows = self._norm(rows, norm, f"{name}_norm")
        return graph.node("Transpose", [rows], f"{name}_by_head", perm=[1, 0, 2])

    def _turned(self, heads: str, name: str) -> str:
        """Rotary positions: the pair (x, y) at distance head_size / 2 turns to (x·cos − y·sin, …)."""
        graph, half = self.graph, self.network.head_size // 2
        x = graph.slice(heads, 0, half, axis=2, name=f"{name}_x")
        y = graph.slice(heads, half, 2 * half, axis=2, name=f"{name}_y")
        products = {
            f"{part}_{table}": graph.node("Mul", [source, table], f"{name}_{part}_{table}")
            for part, source in (("x", x), ("y", y))
            for table in ("cos", "sin")
        }
        first = graph.node("Sub", [products["x_cos"], products["y_sin"]], f"{name}_first")
        second = graph.node("Add", [products["y_cos"], products["x_sin"]], f"{name}_second")
        return graph.node("Concat", [first, second], f"{name}_rope", axis=2)

    def _norm(self, hidden: str, norm: Norm, name: str) -> str:
        graph = self.graph
        rows = self._cast(hidden, FLOATS[graph.compute], TensorProto.FLOAT)
        square = graph.node("Mul", [rows, rows], f"{name}.square")
        mean = graph.node("ReduceMean", [square, graph.integers("axes.last", [-1])], f"{name}.mean")
        epsilon = graph.number(f"epsilon.{norm.epsilon}", norm.epsilon, dtype=np.float32)
        root = graph.node("Sqrt", [graph.node("Add", [mean, epsilon], f"{name}.shifted")], f"{name}.root")
        unit = graph.node("Div", [rows, root], f"{name}.unit")
        weight = graph.weight(norm.weight, to=TensorProto.FLOAT)
        if graph.compute == "float32":
            return graph.node("Mul", [unit, weight], name)
        scaled = graph.node("Mul", [unit, weight], f"{name}.scaled")
        return graph.node("Cast", [scaled], name, to=FLOATS[graph.compute])

    def _cast(self, name: str, stored: int, wanted: int) -> str:
        if stored == wanted:
            return name
        return self.graph.once("Cast", [name], f"{name}.cast{wanted}", to=wanted)
