"""Matrix products with integer weights: codes and activations are multiplied as pairs of 16-bit integers.

Grouped weights (`w4g32` …) are weight-only: activations are rounded to 16 bits per group, so finely that
only the weights' codes count. `w8a8` rounds activations to 8 bits per token, as the recipe says. Either way
sums are exact 32-bit integers: a group adds at most 128 · 32767 · 128 < 2³¹ in absolute value. Pairs are
what `vpmaddwd` multiplies on every AVX2 machine and `vpdpwssd` on machines with VNNI, at four resp. two
instructions per 64 products: less than it takes to fetch the weights from memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compilers.tvm import code
from compilers.tvm.code import Buffer, Expr, Machine, PrimFunc, Register
from compilers.tvm.linear import GRAIN, Product, blocks, finish, work_of

NIBBLES = 0x000F000F
ZERO = 8
"""Code of zero in 4-bit weights."""


@dataclass(frozen=True, slots=True)
class IntegerForm:
    """Weights as integers with scales."""

    bits: Literal[4, 8]
    group: int | None
    """Inputs that share a scale; None: one scale per output, and activations of 8 bits per token."""

    @property
    def name(self) -> str:
        """Short name, for kernels."""
        return "w8a8" if self.group is None else f"w{self.bits}g{self.group}"

    @property
    def limit(self) -> int:
        """Largest activation."""
        return 127 if self.group is None else 32767

    def tile(self, machine: Machine) -> int:
        """Outputs per tile."""
        return 2 * machine.lanes

    def groups(self, columns: int) -> int:
        """Groups of one row."""
        return 1 if self.group is None else columns // self.group

    def codes(self, product: Product, machine: Machine) -> tuple[tuple[int, int, int], str]:
        """Shape and type of the packed codes."""
        tile = self.tile(machine)
        tiles = -(-product.rows // tile)
        if self.bits == 4:
            return (tiles, product.columns // 8, tile), "int32"
        return (tiles, -(-product.columns // 2), 2 * tile), "int8"

    def scales(self, product: Product, machine: Machine) -> tuple[int, int, int]:
        """Shape of the packed scales."""
        tile = self.tile(machine)
        return (-(-product.rows // tile), self.groups(product.columns), tile)


def even(columns: int) -> int:
    """Columns of quantized activations: whole pairs."""
    return code.ceil_to(columns, 2)


def quantize(
    made: dict[str, PrimFunc], name: str, *, columns: int, width: int, form: IntegerForm, machine: Machine
) -> None:
    """(x [n, width], codes int16 [n, even columns], scales [n, groups], offsets int32 [n, groups]).

    `offsets` is what 4-bit sums start from: −8 · Σ codes of the group.
    """
    groups, lanes = form.groups(columns), machine.lanes
    size = columns // groups
    whole = size // lanes
    with code.building(name, made) as kernel:
        x = kernel.buffer("x", ("n", width))
        codes = kernel.buffer("codes", ("n", even(columns)), "int16")
        scales = kernel.buffer("scales", ("n", groups))
        offsets = kernel.buffer("offsets", ("n", groups), "int32")

        def part(i: Expr, g: Expr) -> None:
            start = code.bind(g * size)
            peaks = Register(lanes)
            with code.serial(whole) as j:
                value = code.load(x, i, start + j * lanes, lanes=lanes)
                peaks.set(code.largest(peaks.get(), code.magnitude(value)))
            peak = Register(1, value=peaks.reduce(code.largest))
            for j in range(whole * lanes, size):
                peak.set(code.largest(peak.get(), code.magnitude(x[i, start + j])))
            code.store(scales, peak.get() / float(form.limit), i, g, lanes=1)
            inverse = code.bind(
                code.select(peak.get() > 0.0, float(form.limit) / peak.get(), code.splat(0.0, 1))
            )
            sums = Register(lanes, "int32")
            with code.serial(whole) as j:
                value = code.load(x, i, start + j * lanes, lanes=lanes) * code.splat(inverse, lanes)
                rounded = code.bind(code.convert(code.nearest(value), "int32", lanes))
                sums.add(rounded)
                small = code.convert(rounded, "int16", lanes)
                code.store(codes, small, i, start + j * lanes, lanes=lanes)
            for j in range(whole * lanes, size):
                rounded = code.convert(code.nearest(x[i, start + j] * inverse), "int16")
                code.store(codes, rounded, i, start + j, lanes=1)
            code.store(offsets, sums.reduce(code.total) * -ZERO, i, g, lanes=1)

        def token(i: Expr) -> None:
            with code.serial(groups) as g:
                part(i, g)
            if even(columns) > columns:
                code.store(codes, code.splat(0, 1, "int16"), i, columns, lanes=1)

        n = kernel.dimension("n")
        code.spread(n, token, work=n * columns, grain=1 << 16)


def integer_product(
    made: dict[str, PrimFunc],
    name: str,
    *,
    product: Product,
    form: IntegerForm,
    machine: Machine,
    single: bool,
) -> None:
    """(x codes, x scales, x offsets, w codes, w scales, [bias], y [n, output_width]); `single`: n is 1."""
    with code.building(name, made) as kernel:
        n = 1 if single else kernel.dimension("n")
        groups = form.groups(product.columns)
        x = kernel.buffer("x", (n, even(product.columns)), "int16")
        x_scales = kernel.buffer("x_scales", (n, groups))
        offsets = kernel.buffer("offsets", (n, groups), "int32")
        shape, dtype = form.codes(product, machine)
        w = kernel.buffer("w", shape, dtype)
        scales = kernel.buffer("scales", form.scales(product, machine))
        tile = form.tile(machine)
        bias = kernel.buffer("bias", (shape[0] * tile,)) if product.bias else None
        y = kernel.buffer("y", (n, product.output_width))
        body = _Body(product, form, machine, (x, x_scales, offsets, w, scales, bias, y))
        wide = machine.registers > 16
        size = (12 if wide else 6) if form.group is None else (6 if wide else 3)

        def run(t: Expr) -> None:
            if single:
                body.block(t, 0, 1)
            else:
                blocks(n, size, lambda first, count: body.block(t, first, count))

        code.spread(shape[0], run, work=work_of(product, single=single), grain=GRAIN)


class _Body:
    """The inner loops over one tile."""

    def __init__(
        self, product: Product, form: IntegerForm, machine: Machine, buffers: tuple[Buffer, ...]
    ) -> None:
        self.product = product
        self.form = form
        self.machine = machine
        self.x, self.x_scales, self.offsets, self.w, self.scales, self.bias, self.y = buffers
        self.vectors = form.tile(machine) // machine.lanes
        self.step = 8 if form.bits == 4 else 2
        """Inputs per row of packed codes."""

    def block(self, t: Expr, first: Expr, count: int) -> None:
        """`count` tokens from `first` on."""
        lanes, groups = self.machine.lanes, self.form.groups(self.product.columns)
        floats = [[Register(lanes) for _ in range(self.vectors)] for _ in range(count)]
        steps = self.form.codes(self.product, self.machine)[0][1] // groups
        # One token alone needs several sums, or it would wait for the latency of each multiplication.
        chains = 2 if count == 1 else 1
        with code.serial(groups) as g:
            sums = [self._sums(first + token, g, chains) for token in range(count)]
            with code.serial(steps // chains) as s:
                for chain in range(chains):
                    self._multiply(t, first, g * steps + s * chains + chain, sums, chain)
            for odd in range(steps // chains * chains, steps):
                self._multiply(t, first, g * steps + odd, sums, 0)
            for v in range(self.vectors):
                scale = code.bind(code.load(self.scales, t, g, v * lanes, lanes=lanes))
                for token in range(count):
                    whole = sum(sums[token][chain][v].get() for chain in range(chains))
                    factor = scale * code.splat(self.x_scales[first + token, g], lanes)
                    floats[token][v].add(code.convert(whole, "float32", lanes) * factor)
        for token in range(count):
            values = [register.get() for register in floats[token]]
            finish(self.y, self.bias, first + token, t, values, self.product.mode, lanes)

    def _sums(self, token: Expr, g: Expr, chains: int) -> list[list[Register]]:
        lanes = self.machine.lanes
        start = code.splat(0, lanes, "int32")
        if self.form.bits == 4:
            start = code.bind(code.splat(self.offsets[token, g], lanes, "int32"))
        zero = code.splat(0, lanes, "int32")
        return [
            [Register(lanes, "int32", value=zero if chain else start) for _ in range(self.vectors)]
            for chain in range(chains)
        ]

    def _multiply(
        self, t: Expr, first: Expr, row: Expr, sums: list[list[list[Register]]], chain: int
    ) -> None:
        """One row of packed codes times its inputs."""
        lanes = self.machine.lanes
        for index, pairs in enumerate(self._pairs(t, row)):
            for token, registers in enumerate(sums):
                at = row * self.step + 2 * index
                pair = code.reinterpret(code.load(self.x, first + token, at, lanes=2), "int32")
                both = code.bind(code.reinterpret(code.splat(pair, lanes), "int16", 2 * lanes))
                for v, weights in enumerate(pairs):
                    register = registers[chain][v]
                    register.set(code.dot_pairs(register.get(), both, weights, self.machine))

    def _pairs(self, t: Expr, row: Expr) -> list[list[Expr]]:
        """Per pair of inputs, the weights of each vector as 16-bit pairs."""
        lanes = self.machine.lanes
        if self.form.bits == 8:
            columns = [code.load(self.w, t, row, v * 2 * lanes, lanes=2 * lanes) for v in range(self.vectors)]
            return [[code.bind(code.convert(column, "int16", 2 * lanes)) for column in columns]]
        words = [code.bind(code.load(self.w, t, row, v * lanes, lanes=lanes)) for v in range(self.vectors)]
        mask = code.splat(NIBBLES, lanes, "int32")
        found = []
        for index in range(4):
            shift = code.splat(4 * index, lanes, "int32")
            pairs = [(word >> shift if index else word) & mask for word in words]
            found.append([code.bind(code.reinterpret(p, "int16", 2 * lanes)) for p in pairs])
        return found
