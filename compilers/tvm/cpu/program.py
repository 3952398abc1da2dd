"""The Relax program: kernels tied to functions for one token and for any number, and the plan beside it.

Layers share kernels: what differs between them, weights and windows, are arguments. Intermediate results are
allocated once per call and shared by all layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm import relax, tirx

from compilers.model.network import Layer, Linear, Network, Norm
from compilers.tvm.common.forms import StoredForms
from compilers.tvm.cpu import elementwise, embedding
from compilers.tvm.cpu.attention import AttentionShape, attention
from compilers.tvm.cpu.avx2_int16_products import pair_product
from compilers.tvm.cpu.code import PrimFunc, VectorUnit
from compilers.tvm.cpu.elementwise import padded
from compilers.tvm.cpu.integer import IntegerForm, quantize
from compilers.tvm.cpu.linear import FloatForm, float_product
from compilers.tvm.cpu.parameters import Matrix, ParameterTable
from compilers.tvm.cpu.plan import BLOCK, LibraryPlan
from compilers.tvm.cpu.vnni_int8_products import quad_product
from registry.weight_form import CodedWeights, FloatWeights

Value = Any
"""A Relax expression; TVM ships no types."""
EVERYTHING = 1 << 30
"""Window of a layer without one."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is compiled."""

    module: Any  # Any: tvm.IRModule
    plan: LibraryPlan


@dataclass(frozen=True, slots=True)
class _Block:
    """The packed parameters of a layer."""

    layer: Layer
    input_norm: str
    qkv: Matrix
    head_norms: tuple[str, ...]
    o: Matrix
    post_norm: str
    gate_up: Matrix
    down: Matrix


def build_program(network: Network, *, stored: StoredForms, machine: VectorUnit) -> Program:
    """The program of a network whose weights file holds tensors of the forms `stored`."""
    return _Builder(network, stored, machine).build()


class _Builder:
    """Lays the parameters out, and collects the kernels of both functions."""

    def __init__(self, network: Network, stored: StoredForms, machine: VectorUnit) -> None:
        self.network = network
        self.machine = machine
        self.table = ParameterTable(stored, machine)
        self.kernels: dict[str, PrimFunc] = {}

    def build(self) -> Program:
        """The program."""
        net, table = self.network, self.table
        blocks = [self._block(f"layers.{index}", layer) for index, layer in enumerate(net.layers)]
        table.vector("final_norm", net.final_norm.weight, size=padded(net.hidden))
        lm_head, embed = self._ends()
        table.constant("rope", net.inv_freq)
        builder = relax.BlockBuilder()
        for single in (True, False):
            _Function(self, builder, single=single).emit(blocks, embed, lm_head)
        for name, kernel in table.kernels.items():
            builder.add_func(kernel, name)
        plan = LibraryPlan(
            layers=len(blocks),
            kv_heads=net.kv_heads,
            head_size=net.head_size,
            vocab_size=net.vocab_size,
            tensors=dict(table.stored.tensors),
            parameters=tuple(table.parameters.values()),
        )
        return Program(builder.finalize(), plan)

    def _block(self, at: str, layer: Layer) -> _Block:
        net, table, hidden = self.network, self.table, padded(self.network.hidden)
        norms = [(part, n) for part, n in (("q_norm", layer.q_norm), ("k_norm", layer.k_norm)) if n]
        active = padded(layer.down.columns)
        return _Block(
            layer=layer,
            input_norm=table.vector(f"{at}.input_norm", layer.input_norm.weight, size=hidden),
            qkv=table.matrix(f"{at}.qkv", (layer.q, layer.k, layer.v), "plain", inputs=hidden),
            head_norms=tuple(
                table.vector(f"{at}.{part}", norm.weight, size=net.head_size) for part, norm in norms
            ),
            o=table.matrix(f"{at}.o", (layer.o,), "add", inputs=layer.o.columns, outputs=hidden),
            post_norm=table.vector(f"{at}.post_norm", layer.post_norm.weight, size=hidden),
            gate_up=table.matrix(f"{at}.gate_up", (layer.gate, layer.up), "gated", inputs=hidden),
            down=table.matrix(f"{at}.down", (layer.down,), "add", inputs=active, outputs=hidden),
        )

    def _ends(self) -> tuple[Matrix, tuple[str, ...]]:
        """The output matrix and the embedding's parameters, which are the same where they are tied."""
        net, table = self.network, self.table
        head = table.stored.output_matrix(net)
        lm_head = table.matrix("lm_head", (head,), "plain", inputs=padded(net.hidden))
        if head.weight == net.embedding:
            match lm_head.form:
                case FloatForm(dtype) as form:
                    packed = form.packed(lm_head.product, self.machine)
                    embedding.embed_packed(
                        self.kernels, "embed", packed=packed, hidden=net.hidden, dtype=dtype
                    )
                case IntegerForm() as form:
                    embedding.embed_packed_codes(
                        self.kernels, "embed", product=lm_head.product, form=form, machine=self.machine
                    )
            return lm_head, lm_head.weights
        return lm_head, self._embedding()

    def _embedding(self) -> tuple[str, ...]:
        """The parameters of an embedding that is a matrix apart: what the weights file has of it."""
        net, table = self.network, self.table
        stored = table.stored.matrix(Linear(net.embedding, None, net.vocab_size, net.hidden))
        match stored:
            case FloatWeights(dtype):
                embedding.embed(self.kernels, "embed", vocab=net.vocab_size, hidden=net.hidden, dtype=dtype)
                return (table.alias("embedding", net.embedding),)
            case CodedWeights():
                codes = table.alias("embedding.codes", f"{net.embedding}.codes")
                embedding.embed_codes(
                    self.kernels, "embed", shape=table.parameters[codes].shape, hidden=net.hidden, form=stored
                )
                return codes, table.alias("embedding.scales", f"{net.embedding}.scales")


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
        self.rooms: dict[tuple[int, int, bool], list[Value]] = {}

    def emit(self, blocks: list[_Block], embed: tuple[str, ...], lm_head: Matrix) -> None:
        """(ids, positions, rows, wanted, caches, parameters) → logits [wanted, padded vocabulary]."""
        net, builder = self.net, self.builder
        inputs = {
            name: relax.Var(name, relax.TensorType((size,), "int32"))
            for name, size in (
                ("ids", self.count), ("positions", self.count), ("rows", self.count), ("wanted", self.wanted),
            )
        }  # fmt: skip
        caches = relax.Var("caches", relax.TupleType(self._cache_types(len(blocks))))
        kinds = [relax.TensorType(p.shape, p.dtype) for p in self.owner.table.parameters.values()]
        parameters = relax.Var("parameters", relax.TupleType(kinds))
        with builder.function(self.name, [*inputs.values(), caches, parameters], pure=False):
            self.given = {
                name: builder.emit(relax.TupleGetItem(parameters, index))
                for index, name in enumerate(self.owner.table.parameters)
            }
            hidden = self._room(padded(net.hidden))
            self.normed = self._room(padded(net.hidden))
            self._call("embed", inputs["ids"], *(self.given[name] for name in embed), hidden)
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
        name = f"{'gather_' if gather else ''}norm_{_in_name(norm.epsilon)}"
        if name not in self.owner.kernels:
            elementwise.rms_norm(
                self.owner.kernels, name, machine=self.owner.machine, hidden=self.net.hidden,
                epsilon=norm.epsilon, gather=gather,
            )  # fmt: skip
        return name

    def _rotate_kernel(self, block: _Block) -> str:
        norms = (block.layer.q_norm, block.layer.k_norm)
        name = "rotate" + "".join(f"_norm_{_in_name(norm.epsilon)}" if norm else "" for norm in norms)
        if name not in self.owner.kernels:
            elementwise.rotate(
                self.owner.kernels, name, heads=self.net.heads, kv_heads=self.net.kv_heads,
                head_size=self.net.head_size, width=block.qkv.product.output_width,
                epsilons=(norms[0].epsilon if norms[0] else None, norms[1].epsilon if norms[1] else None),
            )  # fmt: skip
        return name

    def _attention_kernel(self) -> str:
        if "attention" not in self.owner.kernels:
            shape = AttentionShape(self.net.heads, self.net.kv_heads, self.net.head_size)
            attention(self.owner.kernels, "attention", shape=shape, machine=self.owner.machine)
        return "attention"

    def _product(self, matrix: Matrix, x: Value, y: Value) -> None:
        form, product = matrix.form, matrix.product
        name = product.name(f"{self.name}_{form.name}")
        if isinstance(form, FloatForm):
            inputs = [x]
            if name not in self.owner.kernels:
                float_product(
                    self.owner.kernels, name, product=product, form=form, machine=self.owner.machine,
                    single=self.single,
                )  # fmt: skip
        else:
            inputs = self._quantized(matrix, form, x)
            if name not in self.owner.kernels:
                machine = self.owner.machine
                make = quad_product if form.packing(machine) == "quads" else pair_product
                make(
                    self.owner.kernels, name, product=product, form=form, machine=machine, single=self.single
                )
        bias = [self.given[matrix.bias]] if matrix.bias else []
        self._call(name, *inputs, *(self.given[weight] for weight in matrix.weights), *bias, y)

    def _quantized(self, matrix: Matrix, form: IntegerForm, x: Value) -> list[Value]:
        """The input as integers, in memory that products of the same width share."""
        columns, width = matrix.product.columns, matrix.product.input_width
        is_head = matrix.weights[0] == "lm_head.codes"
        count = self.wanted if is_head else self.count
        key = (columns, form.parts, is_head)
        if key not in self.rooms:
            groups = form.parts * form.groups(columns)
            stored, dtype = form.inputs(columns, self.owner.machine)
            self.rooms[key] = [
                self._alloc((count, stored), dtype),
                self._alloc((count, groups)),
                self._alloc((count, groups), "int32"),
            ]
        name = f"quantize_{form.name}_{columns}_{width}"
        if name not in self.owner.kernels:
            quantize(
                self.owner.kernels, name, columns=columns, width=width, form=form, machine=self.owner.machine
            )
        self._call(name, x, *self.rooms[key])
        return self.rooms[key]

    def _room(self, width: int) -> Value:
        return self._alloc((self.count, width))

    def _alloc(self, shape: tuple[Value, ...], dtype: str = "float32") -> Value:
        return self.builder.emit(relax.op.builtin.alloc_tensor(relax.ShapeExpr(shape), dtype, 0))

    def _call(self, kernel: str, *arguments: Value) -> None:
        if kernel not in self.globals:
            self.globals[kernel] = self.builder.add_func(self.owner.kernels[kernel], kernel)
        self.builder.emit(relax.Call(self.globals[kernel], list(arguments)))


def _in_name(epsilon: float) -> str:
    """An epsilon as part of a kernel's name, all digits of a float32: only equal ones share a kernel."""
    return f"{epsilon:.8e}".replace("-", "m").replace(".", "_")
