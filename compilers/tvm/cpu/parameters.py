"""Parameters of a program: which of the checkpoint's tensors are packed, in which form, into which tensors.

The form of a matrix follows from what the weights file holds for it: codes and scales, float16 or float32.
Matrices that read the same input (q, k and v; gate and up) become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

from compilers.model.network import Linear
from compilers.tvm.cpu import pack
from compilers.tvm.cpu.code import PrimFunc, VectorUnit, ceil_to
from compilers.tvm.cpu.elementwise import padded
from compilers.tvm.cpu.integer import IntegerForm
from compilers.tvm.cpu.linear import FloatForm, Mode, Product
from compilers.tvm.cpu.plan import Dtype, Fill, Parameter, TensorForm
from registry.errors import BuildError

FLOATS: Mapping[str, Literal["float32", "float16"]] = {"F32": "float32", "F16": "float16"}
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

    tensors: Mapping[str, TensorForm]
    machine: VectorUnit
    kernels: dict[str, PrimFunc] = field(default_factory=dict)
    parameters: dict[str, Parameter] = field(default_factory=dict)

    def constant(self, name: str, values: tuple[float, ...]) -> str:
        """A vector of constants."""
        return self._add(name, (len(values),), "float32", values=values)

    def alias(self, name: str, source: str) -> str:
        """A tensor of the file as it is."""
        tensor = self._tensor(source)
        return self._add(name, tensor.shape, self._float(source), alias=source)

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
            BuildError: The weights file holds a matrix in no known form, or the parts in different forms.
        """
        forms = {self._form(part) for part in parts}
        if len(forms) != 1:
            raise BuildError(
                f"`{name}` joins matrices of different forms: {sorted(form.name for form in forms)}",
                hint="quantize the checkpoint again",
            )
        form = forms.pop()
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

    def is_stored(self, source: str) -> bool:
        """Whether the file holds this matrix, as floats or as codes."""
        return source in self.tensors or f"{source}.codes" in self.tensors

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
        function = f"pack_{form.name if form.group is None else f'w{form.bits}'}"
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
        per_row = len(self._tensor(source).shape) == 1
        function = f"pack_scales{'_row' if per_row else ''}"
        if function not in self.kernels:
            pack.pack_float(self.kernels, function, dtype="float32", tile=tile, per_row=per_row)
        return Fill(function=function, sources=(source,), integers=place)

    def _vector_fill(self, source: str, place: Place) -> Fill:
        dtype = self._float(source)
        function = f"pack_vector_{dtype}"
        if function not in self.kernels:
            pack.pack_vector(self.kernels, function, dtype=dtype)
        return Fill(function=function, sources=(source,), integers=place)

    def _form(self, part: Linear) -> FloatForm | IntegerForm:
        codes = self.tensors.get(f"{part.weight}.codes")
        if codes is None:
            self._expect(part.weight, (part.rows, part.columns))
            return FloatForm(self._float(part.weight))
        if codes.dtype == "I8" and codes.shape == (part.rows, part.columns):
            self._expect(f"{part.weight}.scales", (part.rows,))
            return IntegerForm(8, None)
        groups = codes.shape[1] if len(codes.shape) == 3 else 0
        group = part.columns // groups if groups and part.columns % groups == 0 else 0
        self._expect(f"{part.weight}.scales", (part.rows, groups))
        stored = codes.shape[-1]
        if codes.dtype == "U8" and codes.shape[0] == part.rows and group % 32 == 0 < group <= 128:
            if stored == group:
                return IntegerForm(8, group)
            if 2 * stored == group:
                return IntegerForm(4, group)
        raise BuildError(
            f"`{part.weight}.codes` is {codes.dtype} {list(codes.shape)}, no known form of "
            f"{[part.rows, part.columns]}",
            hint="quantize the checkpoint again",
        )

    def _float(self, source: str) -> Literal["float32", "float16"]:
        tensor = self._tensor(source)
        if tensor.dtype not in FLOATS:
            raise BuildError(
                f"`{source}` is {tensor.dtype}, not F32 or F16", hint="quantize the checkpoint again"
            )
        return FLOATS[tensor.dtype]

    def _expect(self, source: str, shape: tuple[int, ...]) -> None:
        if self._tensor(source).shape != shape:
            raise BuildError(
                f"`{source}` is {list(self._tensor(source).shape)}, the graph says {list(shape)}",
                hint="export and quantize the checkpoint again",
            )

    def _tensor(self, source: str) -> TensorForm:
        if source not in self.tensors:
            raise BuildError(
                f"the weights file has no `{source}`", hint="export and quantize the checkpoint again"
            )
        return self.tensors[source]

    def _add(
        self, name: str, shape: tuple[int, ...], dtype: Dtype, fills: tuple[Fill, ...] = (), *,
        alias: str | None = None, values: tuple[float, ...] = (),
    ) -> str:  # fmt: skip
        self.parameters[name] = Parameter(
            name=name, shape=shape, dtype=dtype, fills=fills, alias=alias, values=values
        )
        return name
