"""Pack kernels: from the canonical weights file to the layouts that the products read, once per load.

The last three arguments of each kernel, its `place`, are offset, chunk and stride: row r of a source goes
to packed row `offset + (r / chunk) · stride + r % chunk`: so q, k and v stand one after the other in one
matrix, and gate and up alternate by half tiles.
"""

from __future__ import annotations

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Expr, Kernel, PrimFunc

ROWS_AT_ONCE = 16


def pack_vector(made: dict[str, PrimFunc], name: str, *, dtype: str) -> None:
    """(source [rows], out [size] float32, place)."""
    with code.building(name, made) as kernel:
        source = kernel.buffer("source", ("rows",), dtype, align=1)
        out = kernel.buffer("out", ("size",))
        place = _placement(kernel)
        with code.serial(kernel.dimension("rows")) as r:
            code.store(out, code.convert(source[r], "float32"), place(r), lanes=1)


def pack_float(made: dict[str, PrimFunc], name: str, *, dtype: str, tile: int, per_row: bool = False) -> None:
    """(source [rows, columns], out [tiles, columns, tile], place); `per_row`: source [rows]."""
    with code.building(name, made) as kernel:
        rows, columns = kernel.dimension("rows"), 1 if per_row else kernel.dimension("columns")
        source = kernel.buffer("source", (rows,) if per_row else (rows, columns), dtype, align=1)
        out = kernel.buffer("out", ("tiles", columns, tile), dtype)
        place = _placement(kernel)

        def some(block: Expr) -> None:
            count = code.bind(code.least(ROWS_AT_ONCE, rows - block * ROWS_AT_ONCE))
            with code.serial(columns) as k, code.serial(count) as r:
                row = code.bind(block * ROWS_AT_ONCE + r)
                at = code.bind(place(row))
                value = source[row] if per_row else source[row, k]
                code.store(out, value, at // tile, k, at % tile, lanes=1)

        code.spread(code.up(rows, ROWS_AT_ONCE), some, work=rows * columns, grain=1 << 20)


def pack_nibbles(made: dict[str, PrimFunc], name: str, *, tile: int) -> None:
    """(source uint8 [rows, groups, bytes], out int32 [tiles, inputs / 8, tile], place).

    A word holds eight inputs of one output: byte j has input j as its low nibble, j + 4 as its high one.
    """
    with code.building(name, made) as kernel:
        source = kernel.buffer("source", ("rows", "groups", "stored"), "uint8", align=1)
        out = kernel.buffer("out", ("tiles", "words", tile), "int32")
        place = _placement(kernel)
        rows, stored = kernel.dimension("rows"), kernel.dimension("stored")

        def row(r: Expr) -> None:
            at = code.bind(place(r))
            with code.serial(kernel.dimension("groups")) as g, code.serial(stored // 4) as s:
                word: Expr = 0
                for j in range(8):
                    two = code.convert(source[r, g, s * 4 + j // 2], "int32")
                    nibble = two >> 4 if j % 2 else two & 15
                    word = word | nibble << (8 * (j % 4) + 4 * (j // 4))
                code.store(out, word, at // tile, g * (stored // 4) + s, at % tile, lanes=1)

        code.spread(rows, row, work=rows * kernel.dimension("groups") * stored, grain=1 << 20)


def pack_bytes(
    made: dict[str, PrimFunc], name: str, *, grouped: bool, tile: int, together: int, zero: int
) -> None:
    """(source [rows, groups, size] uint8 with zero 128, or [rows, columns] int8, out int8, place).

    `out` is [tiles, inputs / together, together · tile]: the inputs of a pair or quad side by side for each
    output; its codes are more than the values by `zero`, modulo 256.
    """
    with code.building(name, made) as kernel:
        shape = ("rows", "groups", "size") if grouped else ("rows", "size")
        source = kernel.buffer("source", shape, "uint8" if grouped else "int8", align=1)
        out = kernel.buffer("out", ("tiles", "steps", together * tile), "int8")
        place = _placement(kernel)
        rows, size = kernel.dimension("rows"), kernel.dimension("size")
        groups = kernel.dimension("groups") if grouped else 1

        def row(r: Expr) -> None:
            at = code.bind(place(r))
            with code.serial(groups) as g, code.serial(size) as j:
                value = source[r, g, j] if grouped else source[r, j]
                shifted = code.convert(value, "int32") + (zero - 128 if grouped else zero)
                k = code.bind(g * size + j)
                column = at % tile * together + k % together
                code.store(out, code.convert(shifted, "int8"), at // tile, k // together, column, lanes=1)

        code.spread(rows, row, work=rows * groups * size, grain=1 << 20)


class _placement:  # noqa: N801  # reads as a function
    """Where a source's row goes."""

    def __init__(self, kernel: Kernel) -> None:
        self.offset = kernel.integer("offset")
        self.chunk = kernel.integer("chunk")
        self.stride = kernel.integer("stride")

    def __call__(self, row: Expr) -> Expr:
        return self.offset + row // self.chunk * self.stride + row % self.chunk
