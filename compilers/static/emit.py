"""The emitter behind the static graphs: nodes, small constants, and references into the weights file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from compilers.model.onnx_weights import TYPES, external_tensor
from compilers.model.weights import Layout, StoredTensor
from compilers.static.plan import Compute
from registry.errors import BuildError

FLOATS: dict[Compute, int] = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


class Emitter:
    """Collects nodes and initializers; every method returns the name of a tensor.

    Args:
        layout: Of the weights file that the graph refers to.
        compute: Type of activations and products.
    """

    def __init__(self, layout: Layout, compute: Compute) -> None:
        self.layout = layout
        self.compute = compute
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: set[str] = set()

    def node(
        self, operator: str, inputs: Sequence[str], name: str, **attributes: int | str | Sequence[int]
    ) -> str:
        """One node, whose only output has its name."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def once(
        self, operator: str, inputs: Sequence[str], name: str, **attributes: int | str | Sequence[int]
    ) -> str:
        """One node that several others take, made at its first use."""
        if name not in self._known:
            self._known.add(name)
            self.node(operator, inputs, name, **attributes)
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        """A constant int64 vector."""
        return self._constant(name, np.asarray(values, np.int64))

    def number(self, name: str, value: float, *, dtype: type[np.generic] | None = None) -> str:
        """A constant scalar, of the compute type unless `dtype` says another."""
        return self._constant(name, np.asarray(value, dtype or np.dtype(self.compute)))

    def tensor(self, name: str) -> StoredTensor:
        """A tensor's place in the weights file.

        Raises:
            BuildError: The file has none of that name.
        """
        found = self.layout.tensors.get(name)
        if found is None:
            raise BuildError(f"the weights file has no tensor `{name}`", hint="build the variant again")
        return found

    def dtype(self, name: str) -> int:
        """A stored tensor's type, as ONNX numbers it."""
        return TYPES[self.tensor(name).dtype]

    def reference(self, name: str) -> str:
        """A tensor of the weights file, as it is stored."""
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(external_tensor(name, [self.tensor(name)]))
        return name

    def weight(self, name: str, *, to: int | None = None) -> str:
        """A floating-point tensor of the weights file, of ONNX's type `to` (the compute type if None)."""
        stored = self.dtype(name)
        wanted = FLOATS[self.compute] if to is None else to
        if stored == wanted:
            return self.reference(name)
        return self.once("Cast", [self.reference(name)], f"{name}.cast{wanted}", to=wanted)

    def reshape(self, source: str, shape: Sequence[int], name: str) -> str:
        """A tensor in another shape; equal shapes share their constant."""
        key = "shape." + "x".join(str(size) for size in shape)
        return self.node("Reshape", [source, self.integers(key, shape)], name)

    def slice(self, source: str, begin: int, end: int, *, axis: int, name: str) -> str:
        """Elements [begin, end) along an axis."""
        bounds = [self.integers(f"index.{value}", [value]) for value in (begin, end, axis)]
        return self.node("Slice", [source, *bounds], name)

    def _constant(self, name: str, value: np.ndarray[Any, np.dtype[Any]]) -> str:  # Any: int64 or float
        if name not in self._known:
            self._known.add(name)
            self.initializers.append(numpy_helper.from_array(value, name))
        return name
