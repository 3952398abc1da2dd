"""Pack kernels: from the canonical weights file to the layouts that the products read, once per load.

Row r of a source goes to packed row `offset + (r / chunk) · stride + r % chunk`: so q, k and v stand one after the
other in one matrix, and gate and up alternate by half tiles.
"""

from __future__ import annotations

from compilers.tvm import code
from compilers.tvm.code import Expr, Kernel, Machine, PrimFunc
from compilers.tvm.linear import FloatForm

ROWS_AT_ONCE = 16


def pack_vector(made: dict[str, PrimFunc], name: str, *, dtype: str) -> None:
    """(source [rows], out [size] float32, offset, chunk, stride)."""
    with code.building(name, made) as kernel:
        source = kernel.buffer("source", ("rows",), dtype, align=1)
        out = kernel.buffer("out", ("size",))
        place = _placement(kernel)
        with code.serial(kernel.dimension("rows")) as r:
            code.store(out, code.convert(source[r], "float32"), place(r), lanes=1)


def pack_float(
    made: dict[str, PrimFunc], name: str, *, dtype: str, form: FloatForm, machine: Machine
) -> None:
    """(source [rows, columns], out [tiles, columns, tile], offset, chunk, stride)."""
    tile = form.tile(machine)
    with code.building(name, made) as kernel:
        source = kernel.buffer("source", ("rows", "columns"), dtype, align=1)
        out = kernel.buffer("out", ("tiles", "columns", tile), form.dtype)
        place = _placement(kernel)
        rows, columns = kernel.dimension("rows"), kernel.dimension("columns")

        def some(block: Expr) -> None:
            count = code.bind(code.least(ROWS_AT_ONCE, rows - block * ROWS_AT_ONCE))
            with code.serial(columns) as k, code.serial(count) as r:
                row = code.bind(block * ROWS_AT_ONCE + r)
                at = code.bind(place(row))
                value = code.convert(source[row, k], form.dtype)
                code.store(out, value, at // tile, k, at % tile, lanes=1)

        code.spread(code.up(rows, ROWS_AT_ONCE), some, work=rows * columns, grain=1 << 20)


class _placement:  # noqa: N801  # reads as a function
    """Where a source's row goes."""

    def __init__(self, kernel: Kernel) -> None:
        self.offset = kernel.integer("offset")
        self.chunk = kernel.integer("chunk")
        self.stride = kernel.integer("stride")

    def __call__(self, row: Expr) -> Expr:
        return self.offset + row // self.chunk * self.stride + row % self.chunk
