"""The Relax program: kernels tied to one function for one token and one for any number, and the plan beside it.

Layers share kernels: what differs between them, weights and windows, are arguments. Intermediate results are
allocated once per call and shared by all layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tvm import relax, tirx

from compilers.tvm import elementwise, pack
from compilers.tvm.attention import Shape, attention
from compilers.tvm.code import Machine, PrimFunc, ceil_to
from compilers.tvm.elementwise import padded
from compilers.tvm.linear import FloatForm, Mode, Product, float_product
from compilers.tvm.network import Layer, Linear, Network, Norm
from compilers.tvm.plan import BLOCK, Fill, Parameter, Plan, TensorForm

Value = Any
"""A Relax expression; TVM ships no types."""
EVERYTHING = 1 << 30
"""Window of a layer without one."""
DTYPES = {"F32": "float32", "F16": "float16"}


@dataclass(frozen=True, slots=True)
class Program:
    """What is compiled."""

    module: Any  # Any: tvm.IRModule
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A packed matrix: one or more of the checkpoint's, and its parameters' names."""

    product: Product
    form: FloatForm
    parameters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    """The packed parameters of a layer."""

    layer: Layer
    input_norm: str
    qkv: _Matrix
    head_norms: tuple[str, ...]
    o: _Matrix
    post_norm: str
    gate_up: _Matrix
    down: _Matrix


def build_program(network: Network, *, tensors: Mapping[str, TensorForm], machine: Machine) -> Program:
    """The program of a network whose weights file holds `tensors`."""
    return _Builder(network, tensors, machine).build()


@dataclass
class _Builder:
    network: Network
    tensors: Mapping[str, TensorForm]
    machine: Machine
    kernels: dict[str, PrimFunc] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def build(self) -> Program:
        net = self.network
        blocks = [self._block(f"layers.{index}", layer) for index, layer in enumerate(net.layers)]
        self._vector("final_norm", net.final_norm.weight, size=padded(net.hidden))
        head = net.lm_head
        if f"{head.weight}.codes" not in self.tensors and "lm_head.weight.codes" in self.tensors:
            head = Linear("lm_head.weight", head.bias, head.rows, head.columns)  # tied, but quantized apart
        lm_head = self._matrix("lm_head", (head,), "plain", inputs=padded(net.hidden))
        embed = self._embedding(head, lm_head)
        self.parameters["rope"] = Parameter(
            name="rope", shape=(len(net.inv_freq),), dtype="float32", values=net.inv_freq
        )
        builder = relax.BlockBuilder()
        for single in (True, False):
            _Function(self, builder, single=single).emit(blocks, embed, lm_head)
        for name, kernel in self.kernels.items():
            if name.startswith("pack_"):
                builder.add_func(kernel, name)
        plan = Plan(
            layers=len(blocks),
            kv_heads=net.kv_heads,
            head_size=net.head_size,
            vocab_size=net.vocab_size,
            tensors=dict(self.tensors),
            parameters=tuple(self.parameters.values()),
        )
        return Program(builder.finalize(), plan)

    def _block(self, at: str, layer: Layer) -> _Block:
        net, hidden = self.network, padded(self.network.hidden)
        norms = [(part, n) for part, n in (("q_norm", layer.q_norm), ("k_norm", layer.k_norm)) if n]
        return _Block(
            layer=layer,
            input_norm=self._vector(f"{at}.input_norm", layer.input_norm.weight, size=hidden),
            qkv=self._matrix(f"{at}.qkv", (layer.q, layer.k, layer.v), "plain", inputs=hidden),
            head_norms=tuple(
                self._vector(f"{at}.{part}", norm.weight, size=net.head_size) for part, norm in norms
            ),
            o=self._matrix(f"{at}.o", (layer.o,), "add", inputs=layer.o.columns, outputs=hidden),
            post_norm=self._vector(f"{at}.post_norm", layer.post_norm.weight, size=hidden),
            gate_up=self._matrix(f"{at}.gate_up", (layer.gate, layer.up), "gated", inputs=hidden),
            down=self._matrix(
                f"{at}.down", (layer.down,), "add", inputs=padded(layer.down.columns), outputs=hidden
            ),
        )

    def _embedding(self, head: Linear, lm_head: _Matrix) -> str:
        net = self.network
        table = self.tensors[net.embedding]
        dtype, vocab = DTYPES[table.dtype], table.shape[0]
        if head.weight == net.embedding:
            packed = lm_head.form.packed(lm_head.product, self.machine)
            elementwise.embed_packed(self.kernels, "embed", packed=packed, hidden=net.hidden, dtype=dtype)
            return lm_head.parameters[0]
        elementwise.embed(self.kernels, "embed", vocab=vocab, hidden=net.hidden, dtype=dtype)
        name = "embedding"
        self.parameters[name] = Parameter(name=name, shape=table.shape, dtype=dtype, alias=net.embedding)
        return name

    def _vector(self, name: str, source: str, *, size: int) -> str:
        fill = Fill(function=self._pack_vector(source), sources=(source,), integers=(0, 1, 1))
        self.parameters[name] = Parameter(name=name, shape=(size,), dtype="float32", fills=(fill,))
        return name

    def _pack_vector(self, source: str) -> str:
        dtype = DTYPES[self.tensors[source].dtype]
        name = f"pack_vector_{dtype}"
        if name not in self.kernels:
            pack.pack_vector(self.kernels, name, dtype=dtype)
        return name

    def _matrix(
        self, name: str, parts: tuple[Linear, ...], mode: Mode, *, inputs: int, outputs: int | None = None
    ) -> _Matrix:
        """Parameters of some of the checkpoint's matrices as one packed matrix."""
        form = FloatForm(DTYPES[self.tensors[parts[0].weight].dtype])
        tile = form.tile(self.machine)
        if mode == "gated":
            half = tile // 2
            rows = 2 * ceil_to(parts[0].rows, half)
            places = [(0, half, tile), (half, half, tile)]
            width = padded(parts[0].rows)
        else:
            rows = sum(part.rows for part in parts)
            starts = [sum(part.rows for part in parts[:i]) for i in range(len(parts))]
            places = [(start, 1, 1) for start in starts]
            width = outputs or padded(rows)
        has_bias = any(part.bias for part in parts)
        product = Product(rows, parts[0].columns, inputs, width, mode, has_bias)
        shape = form.packed(product, self.machine)
        fills = []
        for part, place in zip(parts, places, strict=True):
            function = f"pack_{form.name}"
            if function not in self.kernels:
                pack.pack_float(self.kernels, function, dtype=form.dtype, form=form, machine=self.machine)
            fills.append(Fill(function=function, sources=(part.weight,), integers=place))
        self.parameters[name] = Parameter(name=name, shape=shape, dtype=form.dtype, fills=tuple(fills))
        names = (name,)
        if has_bias:
            fills = [
                Fill(function=self._pack_vector(part.bias), sources=(part.bias,), integers=place)
                for part, place in zip(parts, places, strict=True)
                if part.bias
            ]
            bias = f"{name}.bias"
            self.parameters[bias] = Parameter(
                name=bias, shape=(shape[0] * tile,), dtype="float32", fills=tuple(fills)
            )
            names = (name, bias)
        return _Matrix(product, form, names)


class _Function:
    """Emits one of the two functions."""

    def __init__(self, owner: _Builder, builder: Value, *, single: bool) -> None:
        self.owner = owner
        self.builder = builder
        self.single = single
        self.name = "one" if single else "many"
        self.net = owner.network
        self.count = 1 if single else tirx.Var("n", "int64")
        self.wanted = 1 if single else tirx.Var("wanted", "int64")
        self.globals: dict[str, Value] = {}

    def emit(self, blocks: list[_Block], embed: str, lm_head: _Matrix) -> None:
        """(ids, positions, rows, wanted, caches, parameters) → logits [wanted, padded vocabulary]."""
        net, builder = self.net, self.builder
        inputs = {
            name: relax.Var(name, relax.TensorType((size,), "int32"))
            for name, size in (
                ("ids", self.count), ("positions", self.count), ("rows", self.count), ("wanted", self.wanted),
            )
        }  # fmt: skip
        caches = relax.Var("caches", relax.TupleType(self._cache_types(len(blocks))))
        kinds = [relax.TensorType(p.shape, p.dtype) for p in self.owner.parameters.values()]
        parameters = relax.Var("parameters", relax.TupleType(kinds))
        with builder.function(self.name, [*inputs.values(), caches, parameters], pure=False):
            self.given = {
                name: builder.emit(relax.TupleGetItem(parameters, index))
                for index, name in enumerate(self.owner.parameters)
            }
            hidden = self._room(padded(net.hidden))
            self.normed = self._room(padded(net.hidden))
            self._call("embed", inputs["ids"], self.given[embed], hidden)
            angles = self._alloc((self.count, 2, len(net.inv_freq)))
            if "rotation" not in self.owner.kernels:
                elementwise.rotation(
                    self.owner.kernels, "rotation", half=len(net.inv_freq), scale=net.rope_scale
                )
            self._call("rotation", inputs["positions"], self.given["rope"], angles)
            rooms = {
                "qkv": self._room(blocks[0].qkv.product.output_width),
                "q": self._room(net.heads * net.head_size),
                "attended": self._room(net.heads * net.head_size),
                "active": self._room(max(block.gate_up.product.output_width for block in blocks)),
            }
            for index, block in enumerate(blocks):
                cache = [builder.emit(relax.TupleGetItem(caches, 2 * index + part)) for part in (0, 1)]
                self._layer(block, cache, hidden, angles, rooms, inputs)
            chosen = self._alloc((self.wanted, padded(net.hidden)))
            norm = self._norm_kernel(net.final_norm, gather=True)
            self._call(norm, hidden, inputs["wanted"], self.given["final_norm"], chosen)
            logits = self._alloc((self.wanted, lm_head.product.output_width))
            self._product(lm_head, chosen, logits)
            builder.emit_func_output(logits)

    def _layer(
        self, block: _Block, cache: list[Value], hidden: Value, angles: Value, rooms: dict[str, Value],
        inputs: dict[str, Value],
    ) -> None:  # fmt: skip
        layer, given = block.layer, self.given
        self._call(self._norm_kernel(layer.input_norm), hidden, given[block.input_norm], self.normed)
        self._product(block.qkv, self.normed, rooms["qkv"])
        positions, rows = inputs["positions"], inputs["rows"]
        weights = [given[name] for name in block.head_norms]
        rotate = self._rotate_kernel(block)
        self._call(rotate, rooms["qkv"], angles, positions, rows, *weights, rooms["q"], *cache)
        window = relax.prim_value(layer.window or EVERYTHING)
        self._call(self._attention_kernel(), rooms["q"], positions, rows, *cache, rooms["attended"], window)
        self._product(block.o, rooms["attended"], hidden)
        self._call(self._norm_kernel(layer.post_norm), hidden, given[block.post_norm], self.normed)
        self._product(block.gate_up, self.normed, rooms["active"])
        self._product(block.down, rooms["active"], hidden)

    def _cache_types(self, layers: int) -> list[Value]:
        rows, blocks = tirx.Var("cache_rows", "int64"), tirx.Var("blocks", "int64")
        size = self.net.head_size
        keys = relax.TensorType((rows, self.net.kv_heads, blocks, size, BLOCK), "float32")
        values = relax.TensorType((rows, self.net.kv_heads, blocks, BLOCK, size), "float32")
        return [keys, values] * layers

    def _norm_kernel(self, norm: Norm, *, gather: bool = False) -> str:
        name = f"{'gather_' if gather else ''}norm_{norm.epsilon:.3e}".replace("-", "m").replace(".", "_")
        if name not in self.owner.kernels:
            elementwise.rms_norm(
                self.owner.kernels, name, machine=self.owner.machine, hidden=self.net.hidden,
                epsilon=norm.epsilon, gather=gather,
            )  # fmt: skip
        return name

    def _rotate_kernel(self, block: _Block) -> str:
        norms = (block.layer.q_norm, block.layer.k_norm)
        name = "rotate" + "".join("_norm" if norm else "" for norm in norms)
        if name not in self.owner.kernels:
            elementwise.rotate(
                self.owner.kernels, name, heads=self.net.heads, kv_heads=self.net.kv_heads,
                head_size=self.net.head_size, width=block.qkv.product.output_width,
                epsilons=(norms[0].epsilon if norms[0] else None, norms[1].epsilon if norms[1] else None),
            )  # fmt: skip
        return name

    def _attention_kernel(self) -> str:
        if "attention" not in self.owner.kernels:
            shape = Shape(self.net.heads, self.net.kv_heads, self.net.head_size)
            attention(self.owner.kernels, "attention", shape=shape, machine=self.owner.machine)
        return "attention"

    def _product(self, matrix: _Matrix, x: Value, y: Value) -> None:
        name = matrix.product.name(f"{self.name}_{matrix.form.name}")
        if name not in self.owner.kernels:
            float_product(
                self.owner.kernels, name, product=matrix.product, form=matrix.form,
                machine=self.owner.machine, single=self.single,
            )  # fmt: skip
        weights, *bias = (self.given[parameter] for parameter in matrix.parameters)
        self._call(name, x, weights, *bias, y)

    def _room(self, width: int) -> Value:
        return self._alloc((self.count, width))

    def _alloc(self, shape: tuple[Any, ...]) -> Value:  # Any: ints and symbolic extents
        return self.builder.emit(relax.op.builtin.alloc_tensor(relax.ShapeExpr(shape), "float32", 0))

    def _call(self, kernel: str, *arguments: Value) -> None:
        if kernel not in self.globals:
            self.globals[kernel] = self.builder.add_func(self.owner.kernels[kernel], kernel)
        self.builder.emit(relax.Call(self.globals[kernel], list(arguments)))
