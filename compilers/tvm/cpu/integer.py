"""Integer weights: their forms in memory, and the rounding of activations to integers.

Products take two shapes. `vnni_int8_products.py` multiplies unsigned codes of weights with signed
activations of 8 bits, four to a lane: 4-bit weights everywhere, `w8a8` where dot products of bytes have an
instruction. `avx2_int16_products.py` multiplies signed integers of 16 bits, two to a lane: all others.
Grouped weights of 8 bits (`w8g32` …) are weight-only: their activations are rounded to 16 bits, so finely
that only the weights' codes count; rounded to 8 bits, the activations would err as much as the weights.
Where 8 bits are too few for the inputs of a matrix, because they have outliers, each is the sum of two codes.
Either way sums are exact 32-bit integers.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, Literal

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Expr, PrimFunc, Register, VectorUnit
from compilers.tvm.cpu.linear import Product

FINER: Final = 254.0
"""Steps of the second part of an input in one of the first: what is left is at most half a step."""
Packing = Literal["pairs", "quads"]
"""Inputs of a product that share a 32-bit lane."""


@dataclass(frozen=True, slots=True)
class IntegerForm:
    """Weights as integers with scales."""

    bits: Literal[4, 8]
    group: int | None
    """Inputs that share a scale; None: one scale per output, and activations with one scale per token."""
    parts: Literal[1, 2] = 1
    """Integers of 8 bits, each with a scale, that an input is the sum of; 2 where inputs have outliers."""

    @property
    def layout(self) -> str:
        """Short name of the weights' form."""
        return "w8a8" if self.group is None else f"w{self.bits}g{self.group}"

    @property
    def name(self) -> str:
        """Short name, for kernels."""
        return self.layout if self.parts == 1 else f"{self.layout}_parts"

    def packing(self, machine: VectorUnit) -> Packing:
        """How inputs are multiplied."""
        if self.bits == 4 or (self.group is None and machine.has_vnni):
            return "quads"
        return "pairs"

    def limit(self, machine: VectorUnit) -> int:
        """Largest activation."""
        return 127 if self.group is None or self.packing(machine) == "quads" else 32767

    def zero(self, machine: VectorUnit) -> int:
        """The packed code of zero."""
        if self.bits == 4:
            return 8
        # Arm multiplies signed codes with signed activations.
        return 128 if self.packing(machine) == "quads" and machine.lanes != code.NEON_LANES else 0

    def inputs(self, columns: int, machine: VectorUnit) -> tuple[int, str]:
        """Elements of a row of rounded activations and their type; each part is padded to whole lanes."""
        if self.packing(machine) == "quads":
            return self.parts * code.ceil_to(columns, 4), "int8"
        return self.parts * code.ceil_to(columns, 2), "int16"

    def tile(self, machine: VectorUnit) -> int:
        """Outputs per tile."""
        return 2 * machine.lanes

    def groups(self, columns: int) -> int:
        """Groups of one row."""
        return 1 if self.group is None else columns // self.group

    def codes(self, product: Product, machine: VectorUnit) -> tuple[tuple[int, int, int], str]:
        """Shape and type of the packed codes."""
        tile = self.tile(machine)
        tiles = -(-product.rows // tile)
        if self.bits == 4:
            return (tiles, product.columns // 8, tile), "int32"
        together = 4 if self.packing(machine) == "quads" else 2
        return (tiles, -(-product.columns // together), together * tile), "int8"

    def scales(self, product: Product, machine: VectorUnit) -> tuple[int, int, int]:
        """Shape of the packed scales."""
        tile = self.tile(machine)
        return (-(-product.rows // tile), self.groups(product.columns), tile)


def quantize(
    made: dict[str, PrimFunc], name: str, *, columns: int, width: int, form: IntegerForm, machine: VectorUnit
) -> None:
    """(x [n, width], codes [n, padded columns], scales [n, groups], offsets int32 [n, groups]).

    `offsets` is what sums start from where codes of weights are unsigned: −zero · Σ codes of the group. With
    two parts, rows are twice as long: first the codes of the inputs, then those of what the first leave out.
    """
    groups, lanes = form.groups(columns), machine.lanes
    size = columns // groups
    whole = size // lanes
    limit, zero = float(form.limit(machine)), form.zero(machine)
    stored, dtype = form.inputs(columns, machine)
    with code.building(name, made) as kernel:
        x = kernel.buffer("x", ("n", width))
        codes = kernel.buffer("codes", ("n", stored), dtype)
        scales = kernel.buffer("scales", ("n", form.parts * groups))
        offsets = kernel.buffer("offsets", ("n", form.parts * groups), "int32")
        row = stored // form.parts

        def second_part(i: Expr, g: Expr, inverse: Expr, step: Expr) -> None:
            """What the codes of a group leave out, at most half a step, in steps `FINER` times finer."""
            start = code.bind(g * size)
            sums = Register(lanes, "int32")
            with code.serial(whole) as j:
                units = code.load(x, i, start + j * lanes, lanes=lanes) * code.splat(inverse, lanes)
                units = code.bind(units)
                rest = (units - code.nearest(units)) * code.splat(FINER, lanes)
                rounded = code.bind(code.convert(code.nearest(rest), "int32", lanes))
                sums.add(rounded)
                code.store(
                    codes, code.convert(rounded, dtype, lanes), i, row + start + j * lanes, lanes=lanes
                )
            total = Register(1, "int32", value=sums.reduce(code.total))
            for j in range(whole * lanes, size):
                unit = code.bind(x[i, start + j] * inverse)
                rounded = code.bind(code.convert(code.nearest((unit - code.nearest(unit)) * FINER), "int32"))
                total.add(rounded)
                code.store(codes, code.convert(rounded, dtype), i, row + start + j, lanes=1)
            code.store(scales, step / FINER, i, groups + g, lanes=1)
            code.store(offsets, total.get() * -zero, i, groups + g, lanes=1)

        def part(i: Expr, g: Expr) -> None:
            start = code.bind(g * size)
            peaks = Register(lanes)
            with code.serial(whole) as j:
                value = code.load(x, i, start + j * lanes, lanes=lanes)
                peaks.set(code.largest(peaks.get(), code.magnitude(value)))
            peak = Register(1, value=peaks.reduce(code.largest))
            for j in range(whole * lanes, size):
                peak.set(code.largest(peak.get(), code.magnitude(x[i, start + j])))
            code.store(scales, peak.get() / limit, i, g, lanes=1)
            inverse = code.bind(code.select(peak.get() > 0.0, limit / peak.get(), code.splat(0.0, 1)))
            sums = Register(lanes, "int32")
            with code.serial(whole) as j:
                value = code.load(x, i, start + j * lanes, lanes=lanes) * code.splat(inverse, lanes)
                rounded = code.bind(code.convert(code.nearest(value), "int32", lanes))
                sums.add(rounded)
                code.store(codes, code.convert(rounded, dtype, lanes), i, start + j * lanes, lanes=lanes)
            total = Register(1, "int32", value=sums.reduce(code.total))
            for j in range(whole * lanes, size):
                rounded = code.bind(code.convert(code.nearest(x[i, start + j] * inverse), "int32"))
                total.add(rounded)
                code.store(codes, code.convert(rounded, dtype), i, start + j, lanes=1)
            code.store(offsets, total.get() * -zero, i, g, lanes=1)
            if form.parts == 2:
                second_part(i, g, inverse, peak.get() / limit)

        def token(i: Expr) -> None:
            with code.serial(groups) as g:
                part(i, g)
            for part_of, j in itertools.product(range(form.parts), range(columns, row)):
                code.store(codes, code.splat(0, 1, dtype), i, part_of * row + j, lanes=1)

        n = kernel.dimension("n")
        code.spread(n, token, work=n * columns, grain=1 << 16)
