"""Matrix products with float weights: packed tiles, register blocks, kernels for one token and for many.

A matrix [out, in] is packed as [out / tile, in, tile], so that the inner loop reads it in order, whole
vectors at a time. Each product's kernel is parallel over tiles; a tile stays in the cache while all tokens
pass it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Buffer, Expr, PrimFunc, Register, VectorUnit

Mode = Literal["plain", "add", "gated"]
"""Store the product; add it to the output; or store silu(gate) · up of tiles whose halves those are."""

GRAIN = 1 << 18
"""Multiplications from which on threads are worth waking."""
CHUNK_COLUMNS = 1024
"""Columns from twice of which on a product is cut into pieces."""
FEW = 8
"""Tokens for which a kernel for many is given threads or not: deciding per call would double its code."""


@dataclass(frozen=True, slots=True)
class Product:
    """One kind of matrix product; layers share kernels by it."""

    rows: int
    """Outputs, before padding to tiles; gate and up together."""
    columns: int
    input_width: int
    """Elements of a row of the input."""
    output_width: int
    mode: Mode
    bias: bool

    def name(self, prefix: str) -> str:
        """Name of its kernel."""
        bias = "_bias" if self.bias else ""
        sizes = (self.rows, self.columns, self.input_width, self.output_width)
        return f"{prefix}_{self.mode}{bias}_{'_'.join(map(str, sizes))}"


@dataclass(frozen=True, slots=True)
class FloatForm:
    """float32 or float16 weights."""

    dtype: Literal["float32", "float16"]

    @property
    def name(self) -> str:
        """Short name, for kernels."""
        return {"float32": "f32", "float16": "f16"}[self.dtype]

    def tile(self, machine: VectorUnit) -> int:
        """Outputs per tile."""
        return (4 if machine.registers > 16 else 2) * machine.lanes

    def packed(self, product: Product, machine: VectorUnit) -> tuple[int, int, int]:
        """Shape of the packed matrix."""
        tile = self.tile(machine)
        return (-(-product.rows // tile), product.columns, tile)


def float_product(
    made: dict[str, PrimFunc],
    name: str,
    *,
    product: Product,
    form: FloatForm,
    machine: VectorUnit,
    single: bool,
) -> None:
    """(x [n, input_width], w packed, [bias], y [n, output_width]); `single`: n is 1."""
    shape = form.packed(product, machine)
    lanes, tile = machine.lanes, shape[2]
    with code.building(name, made) as kernel:
        n = 1 if single else kernel.dimension("n")
        x = kernel.buffer("x", (n, product.input_width))
        w = kernel.buffer("w", shape, form.dtype)
        bias = kernel.buffer("bias", (shape[0] * tile,)) if product.bias else None
        y = kernel.buffer("y", (n, product.output_width))
        body = _Body(product, lanes, x, w, bias, y)

        def whole(t: Expr) -> None:
            columns = range(product.columns)
            if single:
                body.block(t, 0, 1, columns, product.mode)
            else:
                blocks(n, 6, lambda first, count: body.block(t, first, count, columns, product.mode))

        work = work_of(product, single=single)
        if single or product.mode == "gated" or product.columns < 2 * CHUNK_COLUMNS:
            code.spread(shape[0], whole, work=work, grain=GRAIN)
            return
        # A tile of many columns would not stay in the second-level cache while all tokens pass it.
        pieces = product.columns // CHUNK_COLUMNS
        bounds = [product.columns * piece // pieces for piece in range(pieces + 1)]
        for begin, end in itertools.pairwise(bounds):
            mode: Mode = product.mode if begin == 0 else "add"
            body = _Body(product, lanes, x, w, bias if begin == 0 else None, y)

            def part(
                t: Expr, body: _Body = body, columns: range = range(begin, end), mode: Mode = mode
            ) -> None:
                blocks(n, 6, lambda first, count: body.block(t, first, count, columns, mode))

            code.spread(shape[0], part, work=work, grain=GRAIN)


class _Body:
    """The inner loops over one tile."""

    def __init__(self, product: Product, lanes: int, *buffers: Buffer) -> None:
        self.product = product
        self.lanes = lanes
        self.x, self.w, self.bias, self.y = buffers
        self.vectors = int(self.w.shape[2]) // lanes

    def block(self, t: Expr, first: Expr, count: int, columns: range, mode: Mode) -> None:
        """`count` tokens from `first` on, over some columns."""
        # One token alone needs several sums, or it would wait for the latency of each addition.
        unroll = 8 // self.vectors if count == 1 else 1
        sums = [
            [[Register(self.lanes) for _ in range(self.vectors)] for _ in range(count)] for _ in range(unroll)
        ]
        steps = len(columns) // unroll
        with code.serial(steps) as k:
            for part in range(unroll):
                self._step(t, first, columns.start + k * unroll + part, sums[part])
        for part, k in enumerate(range(columns.start + steps * unroll, columns.stop)):
            self._step(t, first, k, sums[part])
        for token in range(count):
            values = [_tree([part[token][v].get() for part in sums]) for v in range(self.vectors)]
            finish(self.y, self.bias, first + token, t, values, mode, self.lanes)

    def _step(self, t: Expr, first: Expr, k: Expr, sums: list[list[Register]]) -> None:
        weights = []
        for v in range(self.vectors):
            loaded = code.load(self.w, t, k, v * self.lanes, lanes=self.lanes)
            weights.append(code.bind(code.convert(loaded, "float32", self.lanes)))
        for token, registers in enumerate(sums):
            value = code.bind(code.splat(self.x[first + token, k], self.lanes))
            for register, weight in zip(registers, weights, strict=True):
                register.add(value * weight)


def blocks(n: Expr, size: int, body: Callable[[Expr, int], None]) -> None:
    """Cut n tokens into blocks of `size`, the rest into blocks of 8, 4, 2 and 1."""
    with code.serial(n // size) as index:
        body(index * size, size)
    rest = code.bind(n % size)
    start = code.bind(n - rest)
    for count in (8, 4, 2, 1):
        if count < size:
            with code.when(rest % (2 * count) >= count):
                body(start + rest - rest % (2 * count), count)


def finish(
    y: Buffer, bias: Buffer | None, token: Expr, t: Expr, values: list[Expr], mode: Mode, lanes: int
) -> None:
    """Bias, activation, residual, store: what follows the sums of a tile."""
    tile = len(values) * lanes
    if bias is not None:
        values = [
            value + code.load(bias, t * tile + v * lanes, lanes=lanes) for v, value in enumerate(values)
        ]
    if mode == "gated":
        half = len(values) // 2
        for v in range(half):
            gate, up = code.bind(values[v]), values[half + v]
            decay = code.exponential(code.splat(0.0, lanes) - gate, lanes)
            active = gate / (code.splat(1.0, lanes) + decay) * up
            code.store(y, active, token, t * (tile // 2) + v * lanes, lanes=lanes)
        return
    for v, value in enumerate(values):
        at = t * tile + v * lanes
        whole = value + code.load(y, token, at, lanes=lanes) if mode == "add" else value
        code.store(y, whole, token, at, lanes=lanes)


def work_of(product: Product, *, single: bool) -> int:
    """Multiplications of a call; of many tokens, as if they were `FEW`."""
    return product.rows * product.columns * (1 if single else FEW)


def _tree(parts: list[Expr]) -> Expr:
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
