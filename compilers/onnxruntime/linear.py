"""Matrix products of the lowered graph: one form per kind of weights, all on the canonical file's bytes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto

from compilers.model.onnx_weights import external_tensor
from compilers.model.weights import Layout, StoredTensor
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.weight_form import OUTPUT_MATRIX, CodedWeights

CONTRIB = "com.microsoft"
ACCURACY_LEVEL = 4
"""MatMulNBits: activations may be rounded to int8 per block of a token."""
ACTIVATION_ZERO = 128
ACTIVATION_LIMIT = 127.0
FINER = 254.0
"""Steps of the second part of an input in one of the first: what is left is at most half a step."""


class Graph(Protocol):
    """Where nodes and initializers go."""

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        *,
        domain: str = "",
        outputs: Sequence[str] = (),
        **attributes: int | float,
    ) -> str:
        """One node."""
        ...

    def constant(self, name: str, value: object, dtype: type[np.generic]) -> str:
        """A small initializer."""
        ...

    def initializer(self, proto: onnx.TensorProto) -> str:
        """Any initializer."""
        ...


class OrtLinears:
    """Emits products with weights of one file under one recipe."""

    def __init__(self, graph: Graph, layout: Layout, recipe: Recipe) -> None:
        self._graph = graph
        self._layout = layout
        self._tensors = layout.tensors
        self._recipe = recipe
        self._activations: dict[str, tuple[str, str]] = {}

    def plain(self, name: str) -> str:
        """A float tensor of the file as float32."""
        return self._float([name])

    def gather(self, node: onnx.NodeProto, index: str) -> str:
        """Rows of a matrix as float32; codes and float16 stay as they are, and only the rows are widened."""
        name = str(node.input[0])
        form = self._coded(name)
        if form is not None:
            return self._gather_codes(node.name, name, index, form)
        if self._tensor(name).dtype != "F16":
            return self._graph.node("Gather", [self._reference([name]), index], node.name, axis=0)
        rows = self._graph.node("Gather", [self._reference([name]), index], f"{node.name}.float16", axis=0)
        return self._graph.node("Cast", [rows], node.name, to=TensorProto.FLOAT)

    def _gather_codes(self, node: str, name: str, index: str, form: CodedWeights) -> str:
        """Rows of codes, dequantized; the codes are the initializer that a product with the matrix takes."""
        graph = self._graph
        codes, scales = self._reference([f"{name}.codes"]), self._tensor(f"{name}.scales")
        # The file's scales once more, in the shape that a lookup wants: views of the same bytes.
        shape = (*scales.shape, 1)
        column = graph.initializer(external_tensor(f"{name}.scales.column", [scales], shape=shape))
        if form.group_size is None:
            rows = graph.node("Gather", [codes, index], f"{node}.codes", axis=0)
            wide = graph.node("Cast", [rows], f"{node}.numbers", to=TensorProto.FLOAT)
            steps = graph.node("Gather", [column, index], f"{node}.scales", axis=0)
            return graph.node("Mul", [wide, steps], node)
        groups = graph.node(
            "GatherBlockQuantized",
            [codes, index, column],
            f"{node}.groups",
            domain=CONTRIB,
            gather_axis=0,
            quantize_axis=2,
            block_size=form.group_size,
            bits=form.bits,
        )
        width = scales.shape[1] * form.group_size
        return graph.node("Reshape", [groups, graph.constant("shape.hidden", [-1, width], np.int64)], node)

    def adjoin(self, nodes: Sequence[onnx.NodeProto]) -> bool:
        """Whether the weights of these products lie one after the other, in one form, biases too."""
        names = [self._name(node) for node in nodes]
        biases = [node.input[2] for node in nodes if len(node.input) == 3]
        forms = {self._coded(name) for name in names}
        if len(forms) != 1:
            return False
        coded = forms != {None}
        parts = [[f"{name}.{part}" for name in names] for part in ("codes", "scales")] if coded else [names]
        if biases:
            parts.append(biases)
        return all(self._follow_each_other(part) for part in parts)

    def emit(self, hidden: str, nodes: Sequence[onnx.NodeProto], *, name: str | None = None) -> str:
        """`hidden` [tokens, in] times one matrix, or several that adjoin: [tokens, out]."""
        names = [self._name(node) for node in nodes]
        biases = [node.input[2] for node in nodes if len(node.input) == 3]
        name = name or nodes[0].name
        bias = self._float(biases) if biases else ""
        form = self._coded(names[0])
        if form is None:
            operands = [hidden, self._float(names), *([bias] if bias else [])]
            return self._graph.node("Gemm", operands, name, transB=1)
        if form.group_size is None:
            return self._per_token(hidden, names, bias, name, wide=form.wide_inputs)
        if form.wide_inputs:
            parts = self._grouped_parts(hidden, group=form.group_size)
            product = self._grouped(parts, names, "", f"{name}.parts", bits=form.bits, group=form.group_size)
            return self._added(product, bias, name)
        return self._grouped(hidden, names, bias, name, bits=form.bits, group=form.group_size)

    def _coded(self, name: str) -> CodedWeights | None:
        """The form of a matrix, if the file holds codes of it."""
        form = self._layout.form(name, self._recipe)
        return form if isinstance(form, CodedWeights) and f"{name}.codes" in self._tensors else None

    def _name(self, node: onnx.NodeProto) -> str:
        """Name of a product's matrix; a tied output matrix may have codes apart from the embedding's."""
        if node.name == "lm_head" and f"{OUTPUT_MATRIX}.codes" in self._tensors:
            return OUTPUT_MATRIX
        return str(node.input[1])

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self._tensors:
            raise BuildError(
                f"the weights file has no tensor `{name}` for recipe `{self._recipe.name}`",
                hint="quantize the checkpoint again",
            )
        return self._tensors[name]

    def _follow_each_other(self, names: Sequence[str]) -> bool:
        tensors = [self._tensor(name) for name in names]
        return all(b.offset == a.offset + a.size_bytes and b.dtype == a.dtype for a, b in pairwise(tensors))

    def _reference(self, names: Sequence[str]) -> str:
        """Adjoining tensors of the file as one initializer."""
        tensors = [self._tensor(name) for name in names]
        rows = sum(tensor.shape[0] for tensor in tensors)
        dims = (rows, *tensors[0].shape[1:])
        return self._graph.initializer(external_tensor("+".join(names), tensors, shape=dims))

    def _float(self, names: Sequence[str]) -> str:
        """Adjoining float tensors as float32; a cast of float16 is constant and done once at load."""
        reference = self._reference(names)
        if self._tensor(names[0]).dtype != "F16":
            return reference
        wide = f"{reference}.float32"
        if wide not in self._activations:
            self._activations[wide] = (wide, wide)
            self._graph.node("Cast", [reference], wide, to=TensorProto.FLOAT)
        return wide

    def _grouped(
        self, hidden: str, names: Sequence[str], bias: str, name: str, *, bits: int, group: int
    ) -> str:
        codes = [self._tensor(f"{matrix}.codes") for matrix in names]
        operands = [
            hidden,
            self._reference([f"{matrix}.codes" for matrix in names]),
            self._reference([f"{matrix}.scales" for matrix in names]),
            *(["", "", bias] if bias else []),
        ]
        return self._graph.node(
            "MatMulNBits",
            operands,
            name,
            domain=CONTRIB,
            K=codes[0].shape[1] * group,
            N=sum(tensor.shape[0] for tensor in codes),
            bits=bits,
            block_size=group,
            accuracy_level=ACCURACY_LEVEL,
        )

    def _grouped_parts(self, hidden: str, *, group: int) -> str:
        """Inputs [tokens, in] in two parts [2 · tokens, in], to be multiplied and added.

        The first is what rounding to 8 bits per group makes of them, which `MatMulNBits` rounds to itself.
        The second is what is left, which it rounds to 8 bits again.
        """
        name = f"{hidden}.groups.{group}"
        if name in self._activations:
            return self._activations[name][0]
        graph = self._graph
        shape = graph.constant(f"shape.groups.{group}", [0, -1, group], np.int64)
        groups = graph.node("Reshape", [hidden, shape], f"{name}.inputs")
        steps, units = self._units(groups, name)
        rounded = graph.node("Mul", [graph.node("Round", [units], f"{name}.whole"), steps], f"{name}.rounded")
        first = graph.node(
            "Reshape", [rounded, graph.constant("shape.flat", [0, -1], np.int64)], f"{name}.first"
        )
        second = graph.node("Sub", [hidden, first], f"{name}.second")
        both = graph.node("Concat", [first, second], f"{name}.parts", axis=0)
        self._activations[name] = (both, both)
        return both

    def _added(self, product: str, bias: str, name: str) -> str:
        """The products of both parts [2 · tokens, out] added, and a bias: [tokens, out]."""
        graph, halves = self._graph, [f"{name}.part.{index}" for index in (0, 1)]
        graph.node("Split", [product], f"{name}.halves", outputs=halves, axis=0, num_outputs=2)
        if not bias:
            return graph.node("Add", halves, name)
        return graph.node("Add", [graph.node("Add", halves, f"{name}.sum"), bias], name)

    def _per_token(self, hidden: str, names: Sequence[str], bias: str, name: str, *, wide: bool) -> str:
        """int8 × int8 with one scale per token and one per output."""
        graph = self._graph
        activations, token_scales = self._quantized_parts(hidden) if wide else self._quantized(hidden)
        codes = self._reference([f"{matrix}.codes" for matrix in names])
        scales = self._reference([f"{matrix}.scales" for matrix in names])
        transposed = graph.node("Transpose", [codes], f"{name}.codes")  # constant: done once at load
        zero = graph.constant("activation.zero", ACTIVATION_ZERO, np.uint8)
        product = graph.node(
            "MatMulIntegerToFloat",
            [activations, transposed, graph.constant("activation.one", 1.0, np.float32), scales, zero],
            f"{name}.product",
            domain=CONTRIB,
        )
        if wide:
            return self._added(graph.node("Mul", [product, token_scales], f"{name}.parts"), bias, name)
        if not bias:
            return graph.node("Mul", [product, token_scales], name)
        scaled = graph.node("Mul", [product, token_scales], f"{name}.scaled")
        return graph.node("Add", [scaled, bias], name)

    def _quantized(self, hidden: str) -> tuple[str, str]:
        """Activations as uint8 around 128, and their scale per token [tokens, 1]; once per tensor."""
        if hidden in self._activations:
            return self._activations[hidden]
        scales, scaled = self._units(hidden, hidden)
        codes = self._codes(scaled, f"{hidden}.codes")
        self._activations[hidden] = (codes, scales)
        return codes, scales

    def _quantized_parts(self, hidden: str) -> tuple[str, str]:
        """The same in two parts [2 · tokens, in] with their scales [2 · tokens, 1].

        The second part is what the codes of the first leave out, in steps `FINER` times finer.
        """
        name = f"{hidden}.parts"
        if name in self._activations:
            return self._activations[name]
        graph = self._graph
        scales, scaled = self._units(hidden, name)
        whole = graph.node("Round", [scaled], f"{name}.whole")
        rest = graph.node("Sub", [scaled, whole], f"{name}.rest")
        finer = graph.constant("activation.finer", FINER, np.float32)
        both = [whole, graph.node("Mul", [rest, finer], f"{name}.rest_in_units")]
        codes = self._codes(graph.node("Concat", both, f"{name}.both", axis=0), f"{name}.codes")
        both = [scales, graph.node("Div", [scales, finer], f"{name}.rest_scales")]
        self._activations[name] = (codes, graph.node("Concat", both, f"{name}.both_scales", axis=0))
        return self._activations[name]

    def _units(self, values: str, name: str) -> tuple[str, str]:
        """The scale of the last axis, at which its largest value is 127, and the values in units of it."""
        graph = self._graph
        size = graph.node("Abs", [values], f"{name}.abs")
        axis = graph.constant("axis.last", [-1], np.int64)
        largest = graph.node("ReduceMax", [size, axis], f"{name}.largest", keepdims=1)
        tiny = graph.constant("activation.tiny", 1e-12, np.float32)
        positive = graph.node("Max", [largest, tiny], f"{name}.range")
        limit = graph.constant("activation.limit", ACTIVATION_LIMIT, np.float32)
        scales = graph.node("Div", [positive, limit], f"{name}.scales")
        return scales, graph.node("Div", [values, scales], f"{name}.in_units")

    def _codes(self, scaled: str, name: str) -> str:
        graph = self._graph
        one = graph.constant("activation.one", 1.0, np.float32)
        zero = graph.constant("activation.zero", ACTIVATION_ZERO, np.uint8)
        return graph.node("QuantizeLinear", [scaled, one, zero], name)
