"""The interchange graph, read back into a decoder's layers, by the names of their weights.

Toolchains that write a graph or kernels of their own (TVM, and the static form) start from here.

The graph's form is promised in `compilers/export/__init__.py`. Reading is strict: a node that stands
elsewhere or computes something else than the promise is a `BuildError` with its name, never silently
compiled as something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import BuildError, ToolchainMissingError

Tensor = Any
"""A NumPy array; ONNX ships no types."""
Proto = Any
"""A model, node or attribute of ONNX."""


@dataclass(frozen=True, slots=True)
class Linear:
    """A matrix product with the matrix [out, in]."""

    weight: str
    bias: str | None
    rows: int
    columns: int


@dataclass(frozen=True, slots=True)
class Norm:
    """A root-mean-square norm."""

    weight: str
    epsilon: float


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer."""

    input_norm: Norm
    q: Linear
    k: Linear
    v: Linear
    q_norm: Norm | None
    k_norm: Norm | None
    o: Linear
    post_norm: Norm
    gate: Linear
    up: Linear
    down: Linear
    window: int | None
    """Keys that a query sees, itself included; None: all."""


@dataclass(frozen=True, slots=True)
class Network:
    """A decoder."""

    vocab_size: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    embedding: str
    inv_freq: tuple[float, ...]
    """Rotary frequencies in radians per position, head_size / 2 of them."""
    rope_scale: float
    """Factor on cos and sin."""
    layers: tuple[Layer, ...]
    final_norm: Norm
    lm_head: Linear


def read_network(path: Path) -> Network:
    """The decoder that an interchange graph describes.

    Raises:
        BuildError: It is not a graph of that form.
        ToolchainMissingError: `onnx` is not installed.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # ships no types
    except ImportError as error:
        raise ToolchainMissingError("`onnx` is not installed", hint="install `rung[build]`") from error
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (OSError, DecodeError) as error:
        raise BuildError(
            f"cannot read the graph `{path}`: {error}", hint="export the checkpoint again"
        ) from error
    return _Reader(model, path).network()


class _Reader:
    """Follows a graph from its inputs to its outputs, by the promised names."""

    def __init__(self, model: Proto, path: Path) -> None:
        from onnx import numpy_helper

        self.path = path
        self.nodes: dict[str, Any] = {node.name: node for node in model.graph.node}
        self.used: set[str] = set()
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.constants: dict[str, Tensor] = {}
        for tensor in model.graph.initializer:
            self.shapes[tensor.name] = tuple(tensor.dims)
            if not tensor.external_data:
                self.constants[tensor.name] = numpy_helper.to_array(tensor)

    def network(self) -> Network:
        """All of it; every node must have been used."""
        embed = self._node("embed_tokens", "Gather")
        embedding = embed.input[0]
        scale, frequencies = self._rope()
        layers: list[Layer] = []
        hidden = "embed_tokens"
        while f"layers.{len(layers)}.input_norm" in self.nodes:
            layers.append(self._layer(len(layers), hidden))
            hidden = f"layers.{len(layers) - 1}.mlp_residual"
        if not layers:
            raise self._error("layers.0.input_norm", "is missing")
        self._node("logit_gather", "Gather", inputs=(hidden, "logit_index"))
        final_norm = self._norm("final_norm", "logit_gather")
        lm_head = self._linear("lm_head", "final_norm")
        attention = self.nodes["layers.0.attention"]
        heads, kv_heads = (self._attribute(attention, f"{k}_num_heads") for k in ("q", "kv"))
        network = Network(
            vocab_size=lm_head.rows,
            hidden=self.shapes[embedding][1],
            heads=heads,
            kv_heads=kv_heads,
            head_size=layers[0].q.rows // heads,
            embedding=embedding,
            inv_freq=frequencies,
            rope_scale=scale,
            layers=tuple(layers),
            final_norm=final_norm,
            lm_head=lm_head,
        )
        self._check(network)
        return network

    def _layer(self, index: int, hidden: str) -> Layer:
        at = f"layers.{index}"
        input_norm = self._norm(f"{at}.input_norm", hidden)
        projections = {k: self._linear(f"{at}.{k}_proj", f"{at}.input_norm") for k in ("q", "k", "v")}
        norms = {k: self._head_norm(f"{at}.{k}") for k in ("q", "k")}
        attention = self._node(f"{at}.attention", "Attention")
        expected = [f"{at}.q_rope", f"{at}.k_rope", f"{at}.v"]
        if list(attention.input[:3]) != expected or len(attention.input) != 6:
            raise self._error(attention.name, f"takes {list(attention.input)}")
        for option in ("is_causal", "scale", "softcap", "qk_matmul_output_mode"):
            if self._attribute(attention, option):
                raise self._error(attention.name, f"has the attribute `{option}`")
        o = self._linear(f"{at}.o_proj", f"{at}.attended")
        self._node(f"{at}.attention_residual", "Add", inputs=(hidden, f"{at}.o_proj"))
        post_norm = self._norm(f"{at}.post_norm", f"{at}.attention_residual")
        gate = self._linear(f"{at}.gate_proj", f"{at}.post_norm")
        up = self._linear(f"{at}.up_proj", f"{at}.post_norm")
        self._node(f"{at}.activation.sigmoid", "Sigmoid", inputs=(f"{at}.gate_proj",))
        self._node(f"{at}.activation.silu", "Mul", inputs=(f"{at}.gate_proj", f"{at}.activation.sigmoid"))
        self._node(f"{at}.activation", "Mul", inputs=(f"{at}.activation.silu", f"{at}.up_proj"))
        down = self._linear(f"{at}.down_proj", f"{at}.activation")
        self._node(f"{at}.mlp_residual", "Add", inputs=(f"{at}.attention_residual", f"{at}.down_proj"))
        return Layer(
            input_norm, **projections, q_norm=norms["q"], k_norm=norms["k"], o=o, post_norm=post_norm,
            gate=gate, up=up, down=down, window=self._window(attention.input[3]),
        )  # fmt: skip

    def _rope(self) -> tuple[float, tuple[float, ...]]:
        frequencies = self.constants.get("rope.inv_freq")
        if frequencies is None:
            raise self._error("rope.inv_freq", "is missing")
        scale = self.constants.get("rope.scale")
        for function in ("cos", "sin"):
            if scale is None:
                self._node(f"rope.{function}", function.capitalize(), inputs=("angles",))
            else:
                self._node(f"rope.{function}", "Mul")
        values = tuple(float(f) for f in frequencies.reshape(-1))
        return (1.0 if scale is None else float(scale)), values

    def _window(self, mask: str) -> int | None:
        if mask == "mask":
            return None
        width = self.constants.get(mask.removeprefix("mask."))
        if not mask.startswith("mask.window.") or width is None:
            raise self._error(mask, "is no mask of a known form")
        return int(width)

    def _head_norm(self, at: str) -> Norm | None:
        rope = self._node(f"{at}_rope", "RotaryEmbedding")
        if self._attribute(rope, "interleaved") or self._attribute(rope, "rotary_embedding_dim"):
            raise self._error(rope.name, "is interleaved or partial")
        return self._norm(f"{at}_norm", f"{at}_heads") if f"{at}_norm" in self.nodes else None

    def _norm(self, name: str, source: str) -> Norm:
        node = self._node(name, "RMSNormalization")
        if node.input[0] != source:
            raise self._error(name, f"takes `{node.input[0]}`")
        return Norm(node.input[1], float(self._attribute(node, "epsilon", 1e-5)))

    def _linear(self, name: str, source: str) -> Linear:
        node = self._node(name, "Gemm")
        if node.input[0] != source or self._attribute(node, "transB") != 1:
            raise self._error(name, f"takes `{node.input[0]}`, or its matrix is not transposed")
        rows, columns = self.shapes[node.input[1]]
        return Linear(node.input[1], node.input[2] if len(node.input) > 2 else None, rows, columns)

    def _node(self, name: str, operator: str, *, inputs: tuple[str, ...] = ()) -> Proto:
        node = self.nodes.get(name)
        if node is None:
            raise self._error(name, "is missing")
        if node.op_type != operator:
            raise self._error(name, f"is a {node.op_type}, not a {operator}")
        if inputs and tuple(node.input) != inputs:
            raise self._error(name, f"takes {list(node.input)}, not {list(inputs)}")
        self.used.add(name)
        return node

    def _attribute(self, node: Proto, name: str, default: float = 0) -> Proto:
        from onnx import helper

        found = [helper.get_attribute_value(a) for a in node.attribute if a.name == name]
        return found[0] if found else default

    def _check(self, network: Network) -> None:
        kinds: Mapping[str, str] = {n: node.op_type for n, node in self.nodes.items()}
        heavy = ("Gemm", "MatMul", "Attention", "RMSNormalization", "RotaryEmbedding")
        for name, operator in kinds.items():
            if operator in heavy and name not in self.used:
                raise self._error(name, "stands where no decoder of a known form has one")
        if len(network.inv_freq) * 2 != network.head_size or network.heads % network.kv_heads:
            raise self._error("layers.0.attention", f"has heads of {network.head_size} elements")
        for layer in network.layers:
            widths = (network.heads, network.kv_heads, network.kv_heads)
            rows = tuple(width * network.head_size for width in widths)
            if (layer.q.rows, layer.k.rows, layer.v.rows) != rows or layer.gate.rows != layer.up.rows:
                raise self._error(layer.q.weight, "has other heads than the first layer")

    def _error(self, name: str, what: str) -> BuildError:
        return BuildError(
            f"graph `{self.path.name}`: `{name}` {what}",
            hint="the graph is not of the interchange form; export the checkpoint again with this version",
        )
