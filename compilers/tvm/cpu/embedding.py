"""Kernels that look tokens up: rows of the embedding as float32, from each form that the matrix is kept in.

An embedding that is tied to the output matrix is read from that one's packed tiles, so that it is in memory
once; any other is read from the weights file as it is. Codes are widened only in the rows that are looked up.
"""

from __future__ import annotations

from collections.abc import Callable

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Buffer, Expr, PrimFunc, VectorUnit
from compilers.tvm.cpu.elementwise import GRAIN, padded
from compilers.tvm.cpu.integer import IntegerForm
from compilers.tvm.cpu.linear import Product
from registry.weight_form import CodedWeights

Element = Callable[[Expr, Expr], Expr]
"""The element of a row and a column, as float32."""


def embed(made: dict[str, PrimFunc], name: str, *, vocab: int, hidden: int, dtype: str) -> None:
    """(ids [n], table [vocab, hidden], out [n, padded]): rows of the checkpoint's own table."""
    with code.building(name, made) as kernel:
        ids = kernel.buffer("ids", ("n",), "int32")
        table = kernel.buffer("table", (vocab, hidden), dtype, align=4)
        out = kernel.buffer("out", ("n", padded(hidden)))
        _rows(kernel.dimension("n"), ids, out, hidden, lambda row, j: code.convert(table[row, j], "float32"))


def embed_packed(
    made: dict[str, PrimFunc], name: str, *, packed: tuple[int, int, int], hidden: int, dtype: str
) -> None:
    """(ids [n], matrix [tiles, hidden, tile], out [n, padded]): rows of a packed output matrix (tied)."""
    with code.building(name, made) as kernel:
        ids = kernel.buffer("ids", ("n",), "int32")
        table = kernel.buffer("table", packed, dtype)
        out = kernel.buffer("out", ("n", padded(hidden)))
        tile = packed[2]

        def element(row: Expr, j: Expr) -> Expr:
            return code.convert(table[row // tile, j, row % tile], "float32")

        _rows(kernel.dimension("n"), ids, out, hidden, element)


def embed_codes(
    made: dict[str, PrimFunc], name: str, *, shape: tuple[int, ...], hidden: int, form: CodedWeights
) -> None:
    """(ids [n], codes, scales, out [n, padded]): rows of codes as the weights file has them.

    Args:
        made: Takes the kernel.
        name: Its name.
        shape: Of the stored codes: [vocab, hidden], or [vocab, groups, bytes].
        hidden: Elements of a row.
        form: Of the codes.
    """
    with code.building(name, made) as kernel:
        ids = kernel.buffer("ids", ("n",), "int32")
        table = kernel.buffer("codes", shape, "int8" if form.group_size is None else "uint8", align=1)
        scales = kernel.buffer("scales", shape[:1] if form.group_size is None else shape[:2], align=4)
        out = kernel.buffer("out", ("n", padded(hidden)))

        def element(row: Expr, j: Expr) -> Expr:
            if form.group_size is None:
                return code.convert(table[row, j], "float32") * scales[row]
            group, place = j // form.group_size, j % form.group_size
            stored = code.convert(table[row, group, place // form.codes_per_byte], "int32")
            if form.codes_per_byte == 2:
                stored = stored >> (place % 2 * 4) & 15
            return code.convert(stored - form.zero, "float32") * scales[row, group]

        _rows(kernel.dimension("n"), ids, out, hidden, element)


def embed_packed_codes(
    made: dict[str, PrimFunc], name: str, *, product: Product, form: IntegerForm, machine: VectorUnit
) -> None:
    """(ids [n], codes, scales, out [n, padded]): rows of a packed output matrix of integers (tied)."""
    with code.building(name, made) as kernel:
        ids = kernel.buffer("ids", ("n",), "int32")
        shape, dtype = form.codes(product, machine)
        table = kernel.buffer("codes", shape, dtype)
        scales = kernel.buffer("scales", form.scales(product, machine))
        out = kernel.buffer("out", ("n", padded(product.columns)))
        tile, zero = form.tile(machine), form.zero(machine)
        together = shape[2] // tile

        def element(row: Expr, j: Expr) -> Expr:
            at, place = row // tile, row % tile
            if form.bits == 4:  # see `pack.pack_nibbles`
                stored = table[at, j // 8, place] >> (j % 4 * 8 + j // 4 % 2 * 4) & 15
            else:
                stored = code.convert(table[at, j // together, place * together + j % together], "int32")
                stored = stored & 255 if zero else stored
            group = 0 if form.group is None else j // form.group
            return code.convert(stored - zero, "float32") * scales[at, group, place]

        _rows(kernel.dimension("n"), ids, out, product.columns, element)


def _rows(n: Expr, ids: Buffer, out: Buffer, hidden: int, element: Element) -> None:
    def token(i: Expr) -> None:
        row = code.bind(ids[i])
        with code.serial(hidden) as j:
            code.store(out, element(row, j), i, j, lanes=1)
        if padded(hidden) > hidden:
            with code.serial(padded(hidden) - hidden) as j:
                code.store(out, code.splat(0.0, 1), i, hidden + j, lanes=1)

    code.spread(n, token, work=n * hidden, grain=GRAIN)
