"""Matrix products of the static form: weights in floats, or dequantized in the graph from codes and scales.

A consumer with integer products of its own gives `static_model` another emitter of this protocol.
"""

from __future__ import annotations

from typing import Protocol

from compilers.model.network import Linear
from compilers.static.emit import FLOATS, Emitter
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.weight_form import OUTPUT_MATRIX, CodedWeights

ACTIVATION_LIMIT = 127.0
SMALLEST_SCALE = 1e-12
"""Keeps a row of zeros from being divided by zero."""


class Linears(Protocol):
    """How a matrix product is written."""

    def emit(self, graph: Emitter, rows: str, linear: Linear, *, name: str) -> str:
        """The product of `rows` [S, in] with a matrix [out, in], plus its bias: [S, out], named `name`."""
        ...


class DequantizedLinears:
    """Products in the compute type, with integer weights dequantized by elementwise operators.

    4-bit codes are two in a byte. Rather than putting them side by side again, which no compiler fuses into
    the product, even and odd inputs are multiplied apart and added.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe

    def emit(self, graph: Emitter, rows: str, linear: Linear, *, name: str) -> str:
        """The product."""
        weight = matrix_of(graph, linear, name)
        if f"{weight}.codes" not in graph.layout.tensors:
            return _gemm(graph, rows, graph.weight(linear.weight), linear, name)
        match graph.layout.form(weight, self._recipe):
            case CodedWeights(group_size=None, activations="int8-dynamic", wide_inputs=wide):
                return _whole_rows(graph, rows, weight, linear, name, rounds=not wide)
            case CodedWeights(bits=8, activations="float") as form:
                scales, numbers = _scales(graph, weight), _numbers(graph, weight)
                matrix = _dequantized(graph, numbers, scales, f"{weight}.float", zero=form.zero)
                matrix = graph.reshape(matrix, (linear.rows, linear.columns), f"{weight}.matrix")
                return _gemm(graph, rows, matrix, linear, name)
            case CodedWeights(bits=4, activations="float") as form:
                return _nibbles(graph, rows, weight, linear, name, zero=form.zero)
            case form:
                raise BuildError(
                    f"the weights file holds codes of `{weight}`, its form in the recipe is {form.name}",
                    hint="build the variant again",
                )


def matrix_of(graph: Emitter, linear: Linear, name: str) -> str:
    """Name of a product's matrix; a tied output matrix may have codes apart from the embedding's."""
    apart = name == "lm_head" and f"{OUTPUT_MATRIX}.codes" in graph.layout.tensors
    return OUTPUT_MATRIX if apart else linear.weight


def _gemm(graph: Emitter, rows: str, matrix: str, linear: Linear, name: str) -> str:
    inputs = [rows, matrix]
    if linear.bias is not None:
        inputs.append(graph.weight(linear.bias))
    return graph.node("Gemm", inputs, name, transB=1)


def _scales(graph: Emitter, weight: str) -> str:
    """A group's scale for each of its codes to be multiplied with: [out, groups, 1]."""
    out, groups, _ = graph.tensor(f"{weight}.codes").shape
    return graph.reshape(graph.weight(f"{weight}.scales"), (out, groups, 1), f"{weight}.factors")


def _dequantized(graph: Emitter, numbers: str, scales: str, name: str, *, zero: int) -> str:
    """(numbers − zero) · scale, in groups: [out, groups, codes of a group]."""
    centred = graph.node("Sub", [numbers, graph.number(f"zero.{zero}", zero)], f"{name}.centred")
    return graph.node("Mul", [centred, scales], name)


def _numbers(graph: Emitter, weight: str) -> str:
    """Codes as numbers of the compute type."""
    codes = graph.reference(f"{weight}.codes")
    return graph.node("Cast", [codes], f"{weight}.numbers", to=FLOATS[graph.compute])


def _nibbles(graph: Emitter, rows: str, weight: str, linear: Linear, name: str, *, zero: int) -> str:
    half = linear.columns // 2
    scales, numbers = _scales(graph, weight), _numbers(graph, weight)
    # Bytes are taken apart in floats, exactly: NPUs have no shifts, and Vulkan's 8-bit ones are emulated.
    shifted = graph.node("Mul", [numbers, graph.number("nibble.shift", 1 / 16)], f"{weight}.shifted")
    high = graph.node("Floor", [shifted], f"{weight}.high")
    above = graph.node("Mul", [high, graph.number("nibble.base", 16)], f"{weight}.above")
    low = graph.node("Sub", [numbers, above], f"{weight}.low")
    pairs = graph.reshape(rows, (-1, half, 2), f"{name}.pairs")
    products = []
    for place, part, nibble in ((0, "even", low), (1, "odd", high)):
        matrix = _dequantized(graph, nibble, scales, f"{weight}.{part}", zero=zero)
        matrix = graph.reshape(matrix, (linear.rows, half), f"{weight}.{part}.matrix")
        inputs = graph.slice(pairs, place, place + 1, axis=2, name=f"{name}.{part}.column")
        inputs = graph.reshape(inputs, (-1, half), f"{name}.{part}.inputs")
        if place == 0:
            products.append(_gemm(graph, inputs, matrix, linear, f"{name}.{part}"))
        else:
            products.append(graph.node("Gemm", [inputs, matrix], f"{name}.{part}", transB=1))
    return graph.node("Add", products, name)


def _whole_rows(graph: Emitter, rows: str, weight: str, linear: Linear, name: str, *, rounds: bool) -> str:
    """w8a8: codes held in floats, scales behind the product; inputs with outliers are not rounded."""
    if rounds:
        product = _rounded_product(graph, rows, weight, name)
    else:
        product = graph.node("Gemm", [rows, _numbers(graph, weight)], f"{name}.rows", transB=1)
    scaled = f"{name}.scaled" if linear.bias is not None else name
    graph.node("Mul", [product, graph.weight(f"{weight}.scales")], scaled)
    if linear.bias is None:
        return scaled
    return graph.node("Add", [scaled, graph.weight(linear.bias)], name)


def _rounded_product(graph: Emitter, rows: str, weight: str, name: str) -> str:
    """Inputs rounded to 8 bits per token, integers held in floats, times the codes."""
    largest = graph.node(
        "ReduceMax", [graph.node("Abs", [rows], f"{name}.abs"), graph.integers("axes.last", [-1])],
        f"{name}.largest",
    )  # fmt: skip
    scale = graph.node(
        "Div", [largest, graph.number("activation.limit", ACTIVATION_LIMIT)], f"{name}.step.raw"
    )
    scale = graph.node("Max", [scale, graph.number("activation.smallest", SMALLEST_SCALE)], f"{name}.step")
    rounded = graph.node("Round", [graph.node("Div", [rows, scale], f"{name}.steps")], f"{name}.rounded")
    product = graph.node("Gemm", [rounded, _numbers(graph, weight)], f"{name}.product", transB=1)
    return graph.node("Mul", [product, scale], f"{name}.rows")
