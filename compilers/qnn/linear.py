"""Matrix products with static 16-bit activations, in the form that QNN's provider takes for integer products.

    QuantizeLinear → DequantizeLinear → Gemm(DequantizeLinear(codes)) → QuantizeLinear → DequantizeLinear

(https://onnxruntime.ai/docs/execution-providers/QNN-ExecutionProvider.html). All else stays in floats:
rounding every tensor ruins RMS norms. Without the second pair the provider multiplies in floats and leaves
the dequantization of the weights to the CPU.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from compilers.model.activations import INPUT, OUTPUT, steps_of
from compilers.model.network import Linear
from compilers.runtime import FloatArray
from compilers.static.emit import Emitter
from compilers.static.linear import DequantizedLinears, matrix_of
from registry.errors import BuildError
from registry.recipe import Recipe
from registry.weight_form import CodedWeights


class StaticLinears:
    """Products of one variant; its scales and ranges become constants of the graph.

    Args:
        recipe: Of matrices with static 16-bit activations, or floats.
        weights: The variant's weights file.
    """

    def __init__(self, recipe: Recipe, weights: Path) -> None:
        self._float = DequantizedLinears(recipe)
        self._recipe = recipe
        self._weights = weights

    def emit(self, graph: Emitter, rows: str, linear: Linear, *, name: str) -> str:
        """The product of `rows` [S, in] with a matrix, plus its bias: [S, out], named `name`.

        Raises:
            BuildError: The weights file lacks what the recipe promises.
        """
        weight = matrix_of(graph, linear, name)
        form = self._recipe.form(weight)
        if not isinstance(form, CodedWeights) or f"{weight}.codes" not in graph.layout.tensors:
            return self._float.emit(graph, rows, linear, name=name)
        taken = self._rounded(graph, rows, f"{name}.input", self._range(graph, f"{weight}.{INPUT}"))
        product = graph.node(
            "Gemm", [taken, self._matrix(graph, weight, bits=form.bits)], f"{name}.product", transB=1
        )
        made = self._range(graph, f"{weight}.{OUTPUT}")
        if linear.bias is None:
            return self._rounded(graph, product, name, made)
        # Behind the rounding: a bias may be many times larger than the product, and would take its bits.
        product = self._rounded(graph, product, f"{name}.output", made)
        return graph.node("Add", [product, graph.weight(linear.bias)], name)

    def _rounded(self, graph: Emitter, source: str, name: str, extent: FloatArray) -> str:
        """A tensor that holds nothing but values with a 16-bit code."""
        steps = steps_of(float(extent[0]), float(extent[1]))
        parameters = [
            graph.number(f"{name}.scale", steps.scale, dtype=np.float32),
            graph.number(f"{name}.zero", steps.zero, dtype=np.uint16),
        ]
        codes = graph.node("QuantizeLinear", [source, *parameters], f"{name}.codes")
        return graph.node("DequantizeLinear", [codes, *parameters], name)

    def _matrix(self, graph: Emitter, weight: str, *, bits: int) -> str:
        name = f"{weight}.codes"
        rows = graph.tensor(name).shape[0]
        if bits == 4:
            codes = _nibbles(self._read(graph, name))
            graph.initializers.append(
                helper.make_tensor(name, TensorProto.INT4, graph.tensor(name).shape, codes, raw=True)
            )
            zeros = helper.make_tensor(
                f"{weight}.zeros", TensorProto.INT4, [rows], bytes(-(-rows // 2)), raw=True
            )
        else:
            graph.reference(name)
            zeros = numpy_helper.from_array(np.zeros(rows, np.int8), f"{weight}.zeros")
        graph.initializers.append(zeros)
        inputs = [name, graph.reference(f"{weight}.scales"), f"{weight}.zeros"]
        return graph.node("DequantizeLinear", inputs, f"{weight}.float", axis=0)

    def _range(self, graph: Emitter, name: str) -> FloatArray:
        return np.frombuffer(self._read(graph, name), np.float32)

    def _read(self, graph: Emitter, name: str) -> bytes:
        place = graph.tensor(name)
        with self._weights.open("rb") as stream:
            stream.seek(place.offset)
            data = stream.read(place.size_bytes)
        if len(data) != place.size_bytes:
            raise BuildError(f"`{self._weights}` ends inside `{name}`", hint="build the variant again")
        return data


def _nibbles(codes: bytes) -> bytes:
    """Signed codes, one per byte, as ONNX packs int4: two in a byte, the first in the low half."""
    flat = np.frombuffer(codes, np.uint8) & 15
    if len(flat) % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << 4)).tobytes()
