"""Matrix products with float weights: packed tiles, register blocks, one kernel for one token and one for many.

A matrix [out, in] is packed as [out / tile, in, tile], so that the inner loop reads it in order, whole vectors at a
time. Each product's kernel is parallel over tiles; a tile stays in the cache while all tokens pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from compilers.tvm import code
from compilers.tvm.code import Buffer, Expr, Kernel, Machine, PrimFunc, Register

Mode = Literal["plain", "add", "gated"]
"""Store the product; add it to the output; or, of tiles whose halves are gate and up, store silu(gate) · up."""

GRAIN = 1 << 18
"""Multiplications from which on threads are worth waking."""
Finish = Callable[[Expr, list[Expr]], None]


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
        return f"{prefix}_{self.mode}{bias}_{self.rows}_{self.columns}_{self.output_width}"


@dataclass(frozen=True, slots=True)
class FloatForm:
    """float32 or float16 weights."""

    dtype: Literal["float32", "float16"]

    @property
    def name(self) -> str:
        """Short name, for kernels."""
        return {"float32": "f32", "float16": "f16"}[self.dtype]

    def tile(self, machine: Machine) -> int:
        """Outputs per tile."""
        return (4 if machine.registers > 16 else 2) * machine.lanes

    def packed(self, product: Product, machine: Machine) -> tuple[int, int, int]:
        """Shape of the packed matrix."""
        tile = self.tile(machine)
        return (-(-product.rows // tile), product.columns, tile)


def float_product(
    made: dict[str, PrimFunc],
    name: str,
    *,
    product: Product,
    form: FloatForm,
    machine: Machine,
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
        vectors = tile // lanes

        def block(t: Expr, first: Expr, count: int, unroll: int) -> None:
            """`count` tokens from `first` on, `unroll` inputs at a time, each with sums of its own."""
            sums = [[[Register(lanes) for _ in range(vectors)] for _ in range(count)] for _ in range(unroll)]

            def step(k: Expr, part: int) -> None:
                weights = [
                    code.bind(code.convert(code.load(w, t, k, v * lanes, lanes=lanes), "float32", lanes))
                    for v in range(vectors)
                ]
                for token in range(count):
                    value = code.bind(code.splat(x[first + token, k], lanes))
                    for v, weight in enumerate(weights):
                        sums[part][token][v].add(value * weight)

            whole = product.columns // unroll
            with code.serial(whole) as k:
                for part in range(unroll):
                    step(k * unroll + part, part)
            for k in range(whole * unroll, product.columns):
                step(k, k % unroll)
            for token in range(count):
                values = [_tree([sums[p][token][v].get() for p in range(unroll)]) for v in range(vectors)]
                finish(y, bias, first + token, t, values, product.mode, lanes)

        def run(t: Expr) -> None:
            if single:
                block(t, 0, 1, 8 // vectors)
            else:
                blocks(n, 6, lambda first, count: block(t, first, count, 1))

        code.spread(shape[0], run, work=work_of(kernel, product, single=single), grain=GRAIN)


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


def work_of(kernel: Kernel, product: Product, *, single: bool) -> Expr:
    """Multiplications of a call, those of one token counted up to the grain."""
    size = min(product.rows * product.columns, GRAIN)
    return size if single else kernel.dimension("n") * size


def _tree(parts: list[Expr]) -> Expr:
    while len(parts) > 1:
        parts = [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
