"""Parameters of a program: which of the checkpoint's tensors are packed, in which form, into which tensors.

The form of a matrix follows from what the weights file holds for it: codes and scales, float16 or float32.
Matrices that read the same input (q, k and v; gate and up) become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from compilers.model.network import Linear
from compilers.tvm.common.forms import StoredForms, no_kernels
from compilers.tvm.cpu import pack
from compilers.tvm.cpu.code import PrimFunc, VectorUnit, ceil_to
from compilers.tvm.cpu.elementwise import padded
from compilers.tvm.cpu.integer import IntegerForm
from compilers.tvm.cpu.linear import FloatForm, Mode, Product
from compilers.tvm.cpu.plan import Dtype, Fill, Parameter
from registry.weight_form import CodedWeights, FloatWeights, WeightForm

LARGEST_GROUP = 128
"""Codes of a group whose products with activations are summed in 32 bits."""
STORED_TYPES: Mapping[str, Dtype] = {"F32": "float32", "F16": "float16", "U8": "uint8", "I8": "int8"}
"""Element types of the weights file as the plan names them."""
Place = tuple[int, int, int]
"""Offset, chunk and stride: see `pack.py`."""


@dataclass(frozen=True, slots=True)
class Matrix:
    """A packed matrix: how it is multiplied, and the names of its parameters."""

    product: Product
    form: FloatForm | IntegerForm
    weights: tuple[str, ...]
    """One name for floats; codes and scales for integers."""
    bias: str | None


@dataclass
class ParameterTable:
    """Collects parameters, and the pack kernels that they need."""

    stored: StoredForms
    machine: VectorUnit
    kernels: dict[str, PrimFunc] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def constant(self, name: str, values: tuple[float, ...]) -> str:
        """A vector of constants."""
        return self._add(name, (len(values),), "float32", values=values)

    def alias(self, name: str, source: str) -> str:
        """A tensor of the file as it is."""
        tensor = self.stored.tensor(source)
        return self._add(name, tensor.shape, STORED_TYPES[tensor.dtype], alias=source)

    def vector(self, name: str, source: str, *, size: int) -> str:
        """A vector as float32, zeros behind it up to `size`."""
        return self._add(name, (size,), "float32", (self._vector_fill(source, (0, 1, 1)),))

    def matrix(
        self, name: str, parts: tuple[Linear, ...], mode: Mode, *, inputs: int, outputs: int | None = None
    ) -> Matrix:
        """Some of the checkpoint's matrices as one.

        Args:
            name: Of its parameters.
            parts: The matrices, of equally many columns.
            mode: What follows the product; `gated` takes gate and up.
            inputs: Elements of a row of its input.
            outputs: Elements of a row of its output, if that is given from elsewhere.

        Raises:
            BuildError: The weights file holds a matrix in a form without kernels, or the parts differ.
        """
        form = kernel_form(name, self.stored.joint(name, parts))
        tile = form.tile(self.machine)
        if mode == "gated":
            half = tile // 2
            rows, width = 2 * ceil_to(parts[0].rows, half), padded(parts[0].rows)
            places: list[Place] = [(0, half, tile), (half, half, tile)]
        else:
            rows = sum(part.rows for part in parts)
            width = outputs or padded(rows)
            places = [(sum(part.rows for part in parts[:i]), 1, 1) for i in range(len(parts))]
        placed = list(zip(parts, places, strict=True))
        product = Product(rows, parts[0].columns, inputs, width, mode, any(part.bias for part in parts))
        if isinstance(form, FloatForm):
            weights = self._float_weights(name, placed, product, form)
        else:
            weights = self._integer_weights(name, placed, product, form)
        bias = None
        if product.bias:
            fills = [self._vector_fill(part.bias, place) for part, place in placed if part.bias]
            bias = self._add(f"{name}.bias", (ceil_to(rows, tile),), "float32", tuple(fills))
        return Matrix(product, form, weights, bias)

    def _float_weights(
        self, name: str, placed: list[tuple[Linear, Place]], product: Product, form: FloatForm
    ) -> tuple[str, ...]:
        function = f"pack_{form.name}"
        if function not in self.kernels:
            pack.pack_float(self.kernels, function, dtype=form.dtype, tile=form.tile(self.machine))
        fills = [Fill(function=function, sources=(part.weight,), integers=place) for part, place in placed]
        return (self._add(name, form.packed(product, self.machine), form.dtype, tuple(fills)),)

    def _integer_weights(
        self, name: str, placed: list[tuple[Linear, Place]], product: Product, form: IntegerForm
    ) -> tuple[str, ...]:
        tile = form.tile(self.machine)
        function = f"pack_{form.layout if form.group is None else f'w{form.bits}'}"
        if function not in self.kernels and form.bits == 4:
            pack.pack_nibbles(self.kernels, function, tile=tile)
        elif function not in self.kernels:
            together = 4 if form.packing(self.machine) == "quads" else 2
            pack.pack_bytes(
                self.kernels, function, grouped=form.group is not None, tile=tile, together=together,
                zero=form.zero(self.machine),
            )  # fmt: skip
        fills = [
            Fill(function=function, sources=(f"{part.weight}.codes",), integers=place)
            for part, place in placed
        ]
        shape, dtype = form.codes(product, self.machine)
        codes = self._add(f"{name}.codes", shape, cast("Dtype", dtype), tuple(fills))
        scales = [self._scale_fill(f"{part.weight}.scales", place, tile) for part, place in placed]
        return codes, self._add(
            f"{name}.scales", form.scales(product, self.machine), "float32", tuple(scales)
        )

    def _scale_fill(self, source: str, place: Place, tile: int) -> Fill:
        per_row = len(self.stored.tensor(source).shape) == 1
        function = f"pack_scales{'_row' if per_row else ''}"
        if function not in self.kernels:
            pack.pack_float(self.kernels, function, dtype="float32", tile=tile, per_row=per_row)
        return Fill(function=function, sources=(source,), integers=place)

    def _vector_fill(self, source: str, place: Place) -> Fill:
        dtype = self.stored.float_type(source)
        function = f"pack_vector_{dtype}"
        if function not in self.kernels:
            pack.pack_vector(self.kernels, function, dtype=dtype)
        return Fill(function=function, sources=(source,), integers=place)

    def _add(
        self, name: str, shape: tuple[int, ...], dtype: Dtype, fills: tuple[Fill, ...] = (), *,
        alias: str | None = None, values: tuple[float, ...] = (),
    ) -> str:  # fmt: skip
        self.parameters[name] = Parameter(
            name=name, shape=shape, dtype=dtype, fills=fills, alias=alias, values=values
        )
        return name


def kernel_form(name: str, form: WeightForm) -> FloatForm | IntegerForm:
    """How a stored form is multiplied on processors.

    Raises:
        BuildError: There are no kernels for it.
    """
    match form:
        case FloatWeights():
            return FloatForm(form.dtype)
        case CodedWeights(8, None, "int8-dynamic", wide):
            return IntegerForm(8, None, parts=2 if wide else 1)
        case CodedWeights(4, int(group), "float", wide) if group % 32 == 0 and group <= LARGEST_GROUP:
            return IntegerForm(4, group, parts=2 if wide else 1)
        case CodedWeights(8, int(group), "float") if group % 32 == 0 and group <= LARGEST_GROUP:
            return IntegerForm(8, group)  # rounds inputs to 16 bits in any case
        case _:
            raise no_kernels(name, form, units="CPU")
