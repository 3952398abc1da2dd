"""The emitter of the interchange graph: from an architecture straight to ONNX, without tracing a framework.

What the graph promises (inputs, outputs, operators, node names) is in the package's docstring. Emitting it
takes milliseconds per layer, its bytes are a function of the architecture, and every operator is one that
standard ONNX defines, so any toolchain can read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compilers.model.architecture import Architecture
from compilers.model.onnx_weights import external_tensor
from compilers.model.weights import Layout, weights_layout
from registry.atomic import write_atomically
from registry.recipe import parse_recipe

Attribute = int | float

FILE = "model.onnx"
OPSET = 23
IR_VERSION = 11
MASKED = -1e9
"""Added to the score of a key that a query may not see; finite, so that a row without keys is no NaN."""
PADDED_POSITION = 2**40
"""Position of a key that is padding: after every query."""


def export_graph(architecture: Architecture, *, out: Path) -> Path:
    """Write the interchange graph as `model.onnx` into the directory `out`, and return its path.

    Its data is `weights.safetensors` beside it, which need not exist. Equal architectures give equal bytes.
    """
    path = out / FILE
    write_atomically(path, build_graph(architecture).SerializeToString(deterministic=True))
    return path


def build_graph(architecture: Architecture) -> onnx.ModelProto:
    """The interchange graph, its weights being references into the fp32 weights file."""
    emitter = _Emitter(architecture, weights_layout(architecture, parse_recipe("fp32")))
    emitter.decoder()
    a = architecture
    past = ["batch", a.kv_heads, "past", a.head_size]
    present = ["batch", a.kv_heads, "total", a.head_size]
    caches = [(layer, part) for layer in range(a.layers) for part in ("key", "value")]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("position_ids", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("key_positions", TensorProto.INT64, ["batch", "total"]),
        helper.make_tensor_value_info("logit_index", TensorProto.INT64, ["wanted"]),
        *(helper.make_tensor_value_info(f"past.{i}.{part}", TensorProto.FLOAT, past) for i, part in caches),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["wanted", a.vocab_size]),
        *(
            helper.make_tensor_value_info(f"present.{i}.{part}", TensorProto.FLOAT, present)
            for i, part in caches
        ),
    ]
    graph = helper.make_graph(emitter.nodes, "decoder", inputs, outputs, emitter.initializers)
    return helper.make_model(
        graph,
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="rung",
    )


class _Emitter:
    """Collects nodes and initializers; each method emits a part and returns the name of its output."""

    def __init__(self, architecture: Architecture, layout: Layout) -> None:
        self.a = architecture
        self.layout = layout
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def node(self, operator: str, inputs: Sequence[str], name: str, **attributes: Attribute) -> str:
        """One node with one output, which has the node's name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, value: object, dtype: type[np.generic]) -> str:
        """A small initializer inside the graph, made once."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def weight(self, name: str) -> str:
        """A reference into the weights file, made once."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(external_tensor(name, [self.layout.tensors[name]]))
        return name

    def decoder(self) -> None:
        """All of it."""
        a = self.a
        self._shared()
        hidden = self.node(
            "Gather", [self.weight("model.embed_tokens.weight"), "token_ids"], "embed_tokens", axis=0
        )
        for layer in range(a.layers):
            hidden = self._layer(layer, hidden)
        hidden = self.node("Gather", [hidden, "logit_index"], "logit_gather", axis=0)
        hidden = self._norm(hidden, "model.norm.weight", "final_norm")
        self.node("Gemm", [hidden, self.weight(a.lm_head)], "lm_head", transB=1)
        self.nodes[-1].output[0] = "logits"

    def _shared(self) -> None:
        """What all layers use: flat token ids, cos and sin, masks, the shape [batch, seq, -1]."""
        a = self.a
        flat = self.constant("shape.flat", [-1], np.int64)
        self.node("Reshape", ["input_ids", flat], "token_ids")
        self.node("Shape", ["input_ids"], "batch_seq", start=0, end=2)
        self.node("Concat", ["batch_seq", flat], "shape.sequence", axis=0)
        self.node("Cast", ["position_ids"], "positions", to=TensorProto.FLOAT)
        self.node("Unsqueeze", ["positions", self.constant("axis.2", [2], np.int64)], "positions.column")
        frequencies = self.constant("rope.inv_freq", np.reshape(a.inv_freq, (1, 1, -1)), np.float32)
        self.node("Mul", ["positions.column", frequencies], "angles")
        for function in ("Cos", "Sin"):
            name = f"rope.{function.lower()}"
            if a.rope_scale == 1.0:
                self.node(function, ["angles"], name)
            else:
                scale = self.constant("rope.scale", a.rope_scale, np.float32)
                self.node("Mul", [self.node(function, ["angles"], f"{name}.unscaled"), scale], name)
        self._masks()

    def _masks(self) -> None:
        """One additive mask [batch, 1, seq, total] for each window that a layer has."""
        queries = self.node(
            "Unsqueeze", ["position_ids", self.constant("axis.query", [1, 3], np.int64)], "query_positions"
        )
        keys = self.node(
            "Unsqueeze", ["key_positions", self.constant("axis.key", [1, 2], np.int64)], "key_positions.row"
        )
        seen = self.node("LessOrEqual", [keys, queries], "causal")
        yes = self.constant("mask.seen", 0.0, np.float32)
        no = self.constant("mask.unseen", MASKED, np.float32)
        for window in sorted(set(self.a.windows), key=lambda w: w or 0):
            visible = seen
            if window is not None:
                width = self.constant(f"window.{window}", window, np.int64)
                first = self.node("Sub", [queries, width], f"window.{window}.before")
                inside = self.node("Greater", [keys, first], f"window.{window}.inside")
                visible = self.node("And", [seen, inside], f"window.{window}.visible")
            self.node("Where", [visible, yes, no], _mask_name(window))

    def _layer(self, layer: int, hidden: str) -> str:
        at, source = f"layers.{layer}", f"model.layers.{layer}"
        normed = self._norm(hidden, f"{source}.input_layernorm.weight", f"{at}.input_norm")
        attended = self._attention(layer, normed)
        out = self._linear(attended, f"{source}.self_attn.o_proj", f"{at}.o_proj", bias=self.a.o_bias)
        hidden = self.node("Add", [hidden, out], f"{at}.attention_residual")
        normed = self._norm(hidden, f"{source}.post_attention_layernorm.weight", f"{at}.post_norm")
        bias = self.a.mlp_bias
        gate = self._linear(normed, f"{source}.mlp.gate_proj", f"{at}.gate_proj", bias=bias)
        up = self._linear(normed, f"{source}.mlp.up_proj", f"{at}.up_proj", bias=bias)
        sigmoid = self.node("Sigmoid", [gate], f"{at}.activation.sigmoid")
        silu = self.node("Mul", [gate, sigmoid], f"{at}.activation.silu")
        active = self.node("Mul", [silu, up], f"{at}.activation")
        down = self._linear(active, f"{source}.mlp.down_proj", f"{at}.down_proj", bias=bias)
        return self.node("Add", [hidden, down], f"{at}.mlp_residual")

    def _attention(self, layer: int, normed: str) -> str:
        a, at, source = self.a, f"layers.{layer}", f"model.layers.{layer}.self_attn"
        rows: dict[str, str] = {}
        for part, heads in (("q", a.heads), ("k", a.kv_heads), ("v", a.kv_heads)):
            row = self._linear(normed, f"{source}.{part}_proj", f"{at}.{part}_proj", bias=a.qkv_bias)
            if a.qk_norm and part != "v":
                split = self.constant(f"shape.heads.{heads}", [-1, heads, a.head_size], np.int64)
                row = self.node("Reshape", [row, split], f"{at}.{part}_heads")
                row = self._norm(row, f"{source}.{part}_norm.weight", f"{at}.{part}_norm")
            row = self.node("Reshape", [row, "shape.sequence"], f"{at}.{part}")
            if part != "v":
                row = self.node(
                    "RotaryEmbedding", [row, "rope.cos", "rope.sin"], f"{at}.{part}_rope", num_heads=heads
                )
            rows[part] = row
        mask = _mask_name(a.windows[layer])
        self.nodes.append(
            helper.make_node(
                "Attention",
                [rows["q"], rows["k"], rows["v"], mask, f"past.{layer}.key", f"past.{layer}.value"],
                [f"{at}.attention", f"present.{layer}.key", f"present.{layer}.value"],
                name=f"{at}.attention",
                q_num_heads=a.heads,
                kv_num_heads=a.kv_heads,
            )
        )
        width = self.constant("shape.attended", [-1, a.heads * a.head_size], np.int64)
        return self.node("Reshape", [f"{at}.attention", width], f"{at}.attended")

    def _norm(self, hidden: str, weight: str, name: str) -> str:
        return self.node(
            "RMSNormalization",
            [hidden, self.weight(weight)],
            name,
            axis=-1,
            epsilon=self.a.rms_eps,
            stash_type=1,
        )

    def _linear(self, hidden: str, source: str, name: str, *, bias: bool) -> str:
        inputs = [hidden, self.weight(f"{source}.weight")]
        if bias:
            inputs.append(self.weight(f"{source}.bias"))
        return self.node("Gemm", inputs, name, transB=1)


def _mask_name(window: int | None) -> str:
    return "mask" if window is None else f"mask.window.{window}"
