"""The launches of a decoder: which kernels, with which buffers, for any number of tokens of any rows.

Layers share kernels, sizes are arguments; so an artifact has about a dozen kernels, whatever its depth.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compilers.model.network import Layer, Linear, Network, Norm
from compilers.tvm.common.forms import StoredForms, TensorForm, no_kernels
from compilers.tvm.gpu import product
from compilers.tvm.gpu.plan import (
    Argument,
    Count,
    GpuParameter,
    GpuPlan,
    KernelForm,
    Launch,
    LaunchStep,
    Room,
)
from compilers.tvm.gpu.product import Form, Mode
from compilers.tvm.gpu.templates import THREADS
from registry.errors import BuildError
from registry.weight_form import CodedWeights, FloatWeights, WeightForm

EVERYTHING = 1 << 30
"""Window of a layer without one."""
ROW_VARIANTS = ((1, 1), (16, 4))
"""(largest count, tokens of a block) of products by rows; larger counts take tiles."""
PADDING = 8
"""Rows of matrices and rooms are a multiple of it: 16 bytes of float16."""
Options = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Some of the checkpoint's matrices as one, and the names of its buffers."""

    form: Form
    rows: int
    columns: int
    """Padded."""
    weights: str
    scales: str | None
    bias: str | None


def build_launches(network: Network, *, tensors: Mapping[str, TensorForm]) -> GpuPlan:
    """The launches of a network whose weights file holds `tensors`; kernels have no digest yet.

    Raises:
        BuildError: The weights file holds a matrix in a form that there are no kernels for.
    """
    return _Builder(network, StoredForms(tensors)).build()


@dataclass
class _Builder:
    """Collects buffers, kernels and steps."""

    network: Network
    stored: StoredForms
    parameters: dict[str, GpuParameter] = field(default_factory=dict)
    rooms: dict[str, Room] = field(default_factory=dict)
    kernels: dict[str, KernelForm] = field(default_factory=dict)
    steps: list[LaunchStep] = field(default_factory=list)

    def build(self) -> GpuPlan:
        """All of it."""
        net = self.network
        hidden, heads = padded(net.hidden), padded(net.heads * net.head_size)
        self.rooms |= {
            "hidden": Room(width=hidden, count="tokens"),
            "normed": Room(width=hidden, count="tokens"),
            "qkv": Room(width=padded((net.heads + 2 * net.kv_heads) * net.head_size), count="tokens"),
            "q": Room(width=heads, count="tokens"),
            "attended": Room(width=heads, count="tokens"),
            "active": Room(width=padded(max(layer.down.columns for layer in net.layers)), count="tokens"),
            "chosen": Room(width=hidden, count="wanted"),
            "logits": Room(width=net.vocab_size, count="wanted"),
        }
        self.parameters["nothing"] = GpuParameter(sources=(), rows=1, columns=8, dtype="float32")
        head = self._head()
        self._embed(head)
        for index, layer in enumerate(net.layers):
            self._layer(index, layer)
        self._norm(net.final_norm, "final_norm", "hidden", "chosen", gather=True)
        self._product(head, "plain", "chosen", "logits", count="wanted")
        return GpuPlan(
            layers=len(net.layers), kv_heads=net.kv_heads, head_size=net.head_size,
            vocab_size=net.vocab_size, inv_freq=net.inv_freq, rope_scale=net.rope_scale,
            tensors=dict(self.stored.tensors), parameters=self.parameters, rooms=self.rooms,
            kernels=self.kernels, steps=tuple(self.steps),
        )  # fmt: skip

    def _head(self) -> _Matrix:
        return self._matrix("lm_head", (self.stored.output_matrix(self.network),))

    def _embed(self, head: _Matrix) -> None:
        net = self.network
        table = head
        if self.stored.output_matrix(net).weight != net.embedding:
            table = self._matrix("embedding", (Linear(net.embedding, None, net.vocab_size, net.hidden),))
        options: Options
        if table.scales:
            options = {"weights": table.form.weights, "group": table.form.group}
            ending = f"codes_{table.form.weights}{table.form.group}"
            kernel = self._kernel(f"embed_{ending}", "embed_codes", options)
            tables = {"codes": _parameter(table.weights), "scales": _parameter(table.scales)}
        else:
            half = table.form.weights == "float16"
            kernel = self._kernel(f"embed_{table.form.weights}", "embed", {"half": half})
            tables = {"table": _parameter(table.weights)}
        arguments = {
            **tables, "batch": _BATCH, "out": _room("hidden"), "hidden": _number(net.hidden),
            "columns": _number(table.columns), "width": self._width("hidden"),
        }  # fmt: skip
        self._step(Launch(kernel=kernel, blocks=1), arguments)

    def _layer(self, index: int, layer: Layer) -> None:
        at, net = f"layers.{index}", self.network
        self._norm(layer.input_norm, f"{at}.input_norm", "hidden", "normed")
        qkv = self._matrix(f"{at}.qkv", (layer.q, layer.k, layer.v))
        self._product(qkv, "plain", "normed", "qkv")
        self._rotate(index, layer)
        options: Options = {"heads": net.heads, "kv_heads": net.kv_heads, "head_size": net.head_size}
        kernel = self._kernel("attention", "attention", options)
        arguments = {
            "q": _room("q"), "batch": _BATCH, "out": _room("attended"),
            "keys": Argument(kind="keys", number=index), "values": Argument(kind="values", number=index),
            "count": _count("tokens"), "capacity": _CAPACITY, "window": _number(layer.window or EVERYTHING),
            "q_width": self._width("q"), "out_width": self._width("attended"),
        }  # fmt: skip
        self._step(Launch(kernel=kernel, blocks=net.heads), arguments)
        self._product(self._matrix(f"{at}.o", (layer.o,)), "add", "attended", "hidden")
        self._norm(layer.post_norm, f"{at}.post_norm", "hidden", "normed")
        gate_up = self._matrix(f"{at}.gate_up", (layer.gate, layer.up))
        self._product(gate_up, "gated", "normed", "active")
        self._product(self._matrix(f"{at}.down", (layer.down,)), "add", "active", "hidden")

    def _rotate(self, index: int, layer: Layer) -> None:
        net = self.network
        options: Options = {"heads": net.heads, "kv_heads": net.kv_heads, "head_size": net.head_size}
        weights: dict[str, Argument] = {}
        for part, norm in (("q", layer.q_norm), ("k", layer.k_norm)):
            options[f"{part}_epsilon"] = norm.epsilon if norm else None
            name = self._vector(f"layers.{index}.{part}_norm", (norm.weight,)) if norm else "nothing"
            weights[f"{part}_weight"] = _parameter(name)
        kernel = self._kernel("rotate", "rotate", options)
        arguments = {
            "qkv": _room("qkv"), "batch": _BATCH, **weights, "q": _room("q"),
            "keys": Argument(kind="keys", number=index), "values": Argument(kind="values", number=index),
            "count": _count("tokens"), "capacity": _CAPACITY, "width": self._width("qkv"),
            "q_width": self._width("q"),
        }  # fmt: skip
        self._step(Launch(kernel=kernel, blocks=net.heads + 2 * net.kv_heads), arguments)

    def _norm(self, norm: Norm, name: str, source: str, target: str, *, gather: bool = False) -> None:
        weight = self._vector(name, (norm.weight,))
        options: Options = {"epsilon": norm.epsilon, "gather": gather}
        kernel = self._kernel("gather_norm" if gather else "norm", "rms_norm", options)
        arguments = {
            "x": _room(source), "weight": _parameter(weight), "batch": _BATCH, "out": _room(target),
            "hidden": _number(self.network.hidden), "width": self._width(source), "count": _count("tokens"),
        }  # fmt: skip
        self._step(Launch(kernel=kernel, blocks=1), arguments, count=self.rooms[target].count)

    def _product(self, matrix: _Matrix, mode: Mode, x: str, y: str, *, count: Count = "tokens") -> None:
        if self.rooms[x].width != matrix.columns:
            raise BuildError(
                f"`{matrix.weights}` takes {matrix.columns} inputs, `{x}` has {self.rooms[x].width}",
                hint="layers of different widths have no kernels yet",
            )
        rows = matrix.rows // 2 if mode == "gated" else matrix.rows
        form = matrix.form
        base: Options = {"weights": form.weights, "group": form.group, "mode": mode}
        ending = f"{mode}_{form.weights}{form.group or ''}"
        launches = []
        for at_most, tokens in ROW_VARIANTS:
            kernel = self._kernel(f"rows{tokens}_{ending}", "rows_product", {**base, "tokens": tokens})
            blocks = -(-rows // product.rows_at_once(mode, tiled=False))
            launches.append(Launch(kernel=kernel, at_most=at_most, at_once=tokens, blocks=blocks))
        kernel = self._kernel(f"tile_{ending}", "tile_product", base)
        blocks = -(-rows // product.rows_at_once(mode, tiled=True))
        launches.append(Launch(kernel=kernel, at_once=product.TILE, blocks=blocks))
        arguments = {
            "x": _room(x), "w": _parameter(matrix.weights), "y": _room(y),
            "bias": _parameter(matrix.bias or "nothing"), "has_bias": _number(int(matrix.bias is not None)),
            "count": _count(count), "rows": _number(rows), "columns": _number(matrix.columns),
            "width": self._width(y),
        }  # fmt: skip
        if matrix.scales:
            arguments["scales"] = _parameter(matrix.scales)
        self.steps.append(LaunchStep(launches=tuple(launches), count=count, arguments=arguments))

    def _matrix(self, name: str, parts: tuple[Linear, ...]) -> _Matrix:
        form = kernel_form(name, self.stored.joint(name, parts))
        rows, columns = sum(part.rows for part in parts), padded(parts[0].columns)
        scales = None
        if form.group:
            scales = f"{name}.scales"
            self.parameters[scales] = GpuParameter(
                sources=tuple(f"{part.weight}.scales" for part in parts), rows=rows,
                columns=columns // form.group, dtype="float32",
            )  # fmt: skip
        sources = tuple(f"{part.weight}{'.codes' if form.group else ''}" for part in parts)
        self.parameters[name] = GpuParameter(
            sources=sources, rows=rows, columns=columns,
            dtype=form.weights,
        )  # fmt: skip
        biases = tuple(part.bias for part in parts if part.bias)
        if biases and len(biases) != len(parts):
            raise BuildError(
                f"`{name}` joins matrices with and without a bias", hint="there are no kernels for that yet"
            )
        bias = self._vector(f"{name}.bias", biases) if biases else None
        return _Matrix(form, rows, columns, name, scales, bias)

    def _vector(self, name: str, sources: tuple[str, ...]) -> str:
        size = sum(self.stored.tensor(source).shape[0] for source in sources)
        self.parameters[name] = GpuParameter(sources=sources, rows=1, columns=size, dtype="float32")
        for source in sources:
            self.stored.float_type(source)
        return name

    def _kernel(self, name: str, template: str, options: Options) -> str:
        """The kernel's name; one of the same template with other options gets a name of its own."""
        number = 1
        unique = name
        while unique in self.kernels and self.kernels[unique].options != options:
            number += 1
            unique = f"{name}_{number}"
        self.kernels[unique] = KernelForm(template=template, options=options, threads=THREADS[template])
        return unique

    def _step(self, launch: Launch, arguments: dict[str, Argument], *, count: Count = "tokens") -> None:
        self.steps.append(LaunchStep(launches=(launch,), count=count, arguments=arguments))

    def _width(self, room: str) -> Argument:
        return _number(self.rooms[room].width)


def kernel_form(name: str, form: WeightForm) -> Form:
    """How a stored form is multiplied on GPUs.

    Raises:
        BuildError: There are no kernels for it.
    """
    match form:
        case FloatWeights():
            return Form(form.dtype)
        case CodedWeights(bits, int(group), "float") if group % 32 == 0:
            return Form("int8" if bits == 8 else "int4", group)
        case _:
            raise no_kernels(name, form, units="GPU")


def padded(size: int) -> int:
    """The next multiple of `PADDING`."""
    return -(-size // PADDING) * PADDING


_BATCH = Argument(kind="batch")
_CAPACITY = Argument(kind="capacity")


def _room(name: str) -> Argument:
    return Argument(kind="room", name=name)


def _parameter(name: str) -> Argument:
    return Argument(kind="parameter", name=name)


def _number(number: int) -> Argument:
    return Argument(kind="number", number=number)


def _count(count: Count) -> Argument:
    return Argument(kind="count", name=count)
