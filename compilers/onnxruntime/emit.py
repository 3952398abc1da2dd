"""The emitter behind the lowering: from the interchange graph's named nodes to ONNX Runtime's form.

Why each rewriting is made is told in `compilers/onnxruntime/lower.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compilers.model.weights import Layout
from compilers.onnxruntime.cache import SPARE_POSITIONS, stored_head_size
from compilers.onnxruntime.linear import OrtLinears
from registry.artifact import ModelFacts
from registry.errors import BuildError
from registry.recipe import Recipe

OPSET = 21
IR_VERSION = 10
CONTRIB = "com.microsoft"

Attribute = int | float


def lower_graph(
    graph: onnx.GraphProto, *, layout: Layout, recipe: Recipe, facts: ModelFacts
) -> onnx.ModelProto:
    """The model that ONNX Runtime loads, referring to a weights file of this layout.

    Raises:
        BuildError: A node or tensor is missing.
    """
    emitter = _Emitter(graph, layout, recipe, facts)
    emitter.decoder()
    cache = ["rows", facts.kv_heads, "capacity", stored_head_size(facts)]
    caches = [f"{layer}.{part}" for layer in range(facts.layers) for part in ("key", "value")]
    integers = (("input_ids", ["tokens"]), ("spread", ["rows", "seq"]), ("pack", ["tokens"]))
    narrow: tuple[tuple[str, list[str]], ...] = (
        ("query_lengths", ["rows"]),
        ("last_positions", ["rows"]),
        ("total", []),
    )
    inputs = [
        *(helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in integers),
        *(helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in narrow),
        helper.make_tensor_value_info("logit_index", TensorProto.INT64, ["wanted"]),
        *(helper.make_tensor_value_info(f"past.{name}", TensorProto.FLOAT, cache) for name in caches),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["wanted", facts.vocab_size]),
        *(helper.make_tensor_value_info(f"present.{name}", TensorProto.FLOAT, cache) for name in caches),
    ]
    return helper.make_model(
        helper.make_graph(emitter.nodes, "decoder", inputs, outputs, emitter.initializers),
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
        producer_name="rung",
    )


class _Emitter:
    """Collects nodes and initializers; each method emits a part and returns the name of its output."""

    def __init__(self, graph: onnx.GraphProto, layout: Layout, recipe: Recipe, facts: ModelFacts) -> None:
        self.facts = facts
        self._padding = stored_head_size(facts) - facts.head_size
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._source = {node.name: node for node in graph.node}
        self._constants = {proto.name: proto for proto in graph.initializer}
        self._known: set[str] = set()
        self._linears = OrtLinears(self, layout, recipe)

    # -- what others build with

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        outputs: Sequence[str] = (),
        **attributes: Attribute,
    ) -> str:
        """One node; its only output has the node's name unless `outputs` are given."""
        made = helper.make_node(
            operator, list(inputs), list(outputs) or [name], name=name, domain=domain, **attributes
        )
        self.nodes.append(made)
        return name

    def constant(self, name: str, value: object, dtype: type[np.generic]) -> str:
        """A small initializer inside the graph, made once."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def initializer(self, proto: onnx.TensorProto) -> str:
        """An initializer, added once by name."""
        if proto.name not in self._known:
            self._known.add(proto.name)
            self.initializers.append(proto)
        return str(proto.name)

    # -- the decoder

    def decoder(self) -> None:
        """All of it."""
        self._rope()
        hidden = self._linears.gather(self._find("embed_tokens"), "input_ids")
        normed = self._norm(hidden, "layers.0.input_norm")
        for layer in range(self.facts.layers):
            at = f"layers.{layer}"
            out = self._linears.emit(self._attention(at, normed, layer), [self._find(f"{at}.o_proj")])
            hidden, normed = self._skip_norm(hidden, out, f"{at}.attention_residual", f"{at}.post_norm")
            down = self._mlp(at, normed)
            if layer + 1 < self.facts.layers:
                following = f"layers.{layer + 1}.input_norm"
                hidden, normed = self._skip_norm(hidden, down, f"{at}.mlp_residual", following)
            else:
                hidden = self.node("Add", [hidden, down], f"{at}.mlp_residual")
        wanted = self.node("Gather", [hidden, "logit_index"], "logit_gather", axis=0)
        head = self._find("lm_head")
        logits = self._linears.emit(self._norm(wanted, "final_norm"), [head])
        self.node("Identity", [logits], "logits")

    def _find(self, name: str) -> onnx.NodeProto:
        if name not in self._source:
            raise BuildError(
                f"the interchange graph has no node `{name}`", hint="export the checkpoint again"
            )
        return self._source[name]

    def _rope(self) -> None:
        """Tables of cos and sin for all positions; constant, so computed once when the session is made."""
        if "rope.inv_freq" not in self._constants:
            raise BuildError(
                "the interchange graph has no tensor `rope.inv_freq`", hint="export the checkpoint again"
            )
        frequencies = numpy_helper.to_array(self._constants["rope.inv_freq"]).reshape(1, -1)
        scale = (
            numpy_helper.to_array(self._constants["rope.scale"]) if "rope.scale" in self._constants else None
        )
        limit = self.constant("rope.positions", self.facts.max_context + SPARE_POSITIONS, np.int64)
        zero, one = self.constant("zero", 0, np.int64), self.constant("one", 1, np.int64)
        self.node("Range", [zero, limit, one], "rope.range")
        self.node("Cast", ["rope.range"], "rope.float", to=TensorProto.FLOAT)
        self.node("Unsqueeze", ["rope.float", self.constant("axis.1", [1], np.int64)], "rope.column")
        # A pair that only fills a head up does not turn.
        frequencies = np.pad(frequencies, ((0, 0), (0, self._padding // 2)))
        angles = [self.constant("rope.inv_freq", frequencies, np.float32), "rope.column"]
        self.node("Mul", angles, "rope.angles")
        for function in ("Cos", "Sin"):
            name = f"rope.{function.lower()}"
            table = self.node(function, ["rope.angles"], name if scale is None else f"{name}.unscaled")
            if scale is not None:
                self.node("Mul", [table, self.constant("rope.scale", scale, np.float32)], name)

    def _attention(self, at: str, normed: str, layer: int) -> str:
        facts = self.facts
        nodes = [self._find(f"{at}.{part}_proj") for part in "qkv"]
        normalised = f"{at}.q_norm" in self._source
        if not normalised and not self._padding and self._linears.adjoin(nodes):
            packed = self._linears.emit(normed, nodes, name=f"{at}.qkv_proj")
            operands = [self.node("Gather", [packed, "spread"], f"{at}.qkv", axis=0), "", ""]
        else:
            operands = []
            for part, node in zip("qkv", nodes, strict=True):
                row = self._linears.emit(normed, [node])
                if normalised and part != "v":
                    row = self._head_norm(row, at, part)
                if self._padding:
                    row = self._fill_up(
                        row, f"{at}.{part}", heads=facts.heads if part == "q" else facts.kv_heads
                    )
                operands.append(self.node("Gather", [row, "spread"], f"{at}.{part}", axis=0))
        window = self._window(at)
        limits = {} if window is None else {"local_window_size": window}
        self.node(
            "GroupQueryAttention",
            [*operands, f"past.{layer}.key", f"past.{layer}.value", "last_positions", "total"]
            + ["rope.cos", "rope.sin"]
            + [""] * 7
            + ["query_lengths"],
            f"{at}.attention",
            domain=CONTRIB,
            outputs=[f"{at}.attention", f"present.{layer}.key", f"present.{layer}.value"],
            num_heads=facts.heads,
            kv_num_heads=facts.kv_heads,
            do_rotary=1,
            scale=facts.head_size**-0.5,
            **limits,
        )
        width = self.constant("shape.attended", [-1, facts.heads * stored_head_size(facts)], np.int64)
        places = self.node("Reshape", [f"{at}.attention", width], f"{at}.places")
        attended = self.node("Gather", [places, "pack"], f"{at}.attended", axis=0)
        return self._cut_down(attended, at) if self._padding else attended

    def _fill_up(self, row: str, name: str, *, heads: int) -> str:
        """Heads filled up with zeros behind each half, so that rotary pairs stay pairs."""
        half, size = self.facts.head_size // 2, stored_head_size(self.facts)
        split = self.constant(f"shape.halves.{heads}", [-1, heads, 2, half], np.int64)
        joined = self.constant(f"shape.filled.{heads}", [-1, heads * size], np.int64)
        zeros = self.constant("filling", [0, 0, 0, 0, 0, 0, 0, self._padding // 2], np.int64)
        row = self.node("Reshape", [row, split], f"{name}.halves")
        return self.node(
            "Reshape", [self.node("Pad", [row, zeros], f"{name}.padded"), joined], f"{name}.filled"
        )

    def _cut_down(self, row: str, at: str) -> str:
        """The inverse of `_fill_up` on what attention returns."""
        heads, half = self.facts.heads, self.facts.head_size // 2
        split = self.constant(
            "shape.filled_halves", [-1, heads, 2, stored_head_size(self.facts) // 2], np.int64
        )
        joined = self.constant("shape.cut", [-1, heads * 2 * half], np.int64)
        bounds = [
            self.constant("cut.begin", [0], np.int64),
            self.constant("cut.end", [half], np.int64),
            self.constant("cut.axis", [3], np.int64),
        ]
        row = self.node("Reshape", [row, split], f"{at}.attended_halves")
        return self.node(
            "Reshape", [self.node("Slice", [row, *bounds], f"{at}.cut"), joined], f"{at}.attended_cut"
        )

    def _window(self, at: str) -> int | None:
        mask = self._find(f"{at}.attention").input[3]
        return int(mask.rpartition(".")[2]) if mask.startswith("mask.window.") else None

    def _head_norm(self, row: str, at: str, part: str) -> str:
        """Normalise each head: [tokens, heads · size] → [tokens, heads, size] → norm → back."""
        heads = self.facts.heads if part == "q" else self.facts.kv_heads
        split = self.constant(f"shape.heads.{heads}", [-1, heads, self.facts.head_size], np.int64)
        joined = self.constant(f"shape.joined.{heads}", [-1, heads * self.facts.head_size], np.int64)
        row = self.node("Reshape", [row, split], f"{at}.{part}_heads")
        return self.node("Reshape", [self._norm(row, f"{at}.{part}_norm"), joined], f"{at}.{part}_normed")

    def _mlp(self, at: str, normed: str) -> str:
        gate = self._linears.emit(normed, [self._find(f"{at}.gate_proj")])
        up = self._linears.emit(normed, [self._find(f"{at}.up_proj")])
        silu = self.node("QuickGelu", [gate], f"{at}.silu", domain=CONTRIB, alpha=1.0)
        active = self.node("Mul", [silu, up], f"{at}.activation")
        return self._linears.emit(active, [self._find(f"{at}.down_proj")])

    def _norm(self, hidden: str, name: str) -> str:
        node = self._find(name)
        scale = self._linears.plain(node.input[1])
        return self.node(
            "SimplifiedLayerNormalization",
            [hidden, scale],
            name,
            axis=-1,
            epsilon=_epsilon(node),
            stash_type=1,
        )

    def _skip_norm(self, hidden: str, added: str, residual: str, name: str) -> tuple[str, str]:
        node = self._find(name)
        scale = self._linears.plain(node.input[1])
        self.node(
            "SkipSimplifiedLayerNormalization",
            [hidden, added, scale],
            name,
            domain=CONTRIB,
            outputs=[name, "", "", residual],
            epsilon=_epsilon(node),
        )
        return residual, name


def _epsilon(node: onnx.NodeProto) -> float:
    return next(float(attribute.f) for attribute in node.attribute if attribute.name == "epsilon")
