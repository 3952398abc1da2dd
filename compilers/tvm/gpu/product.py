"""Matrix products: float32 activations times a matrix in float32, float16 or codes, summed in float32.

A matrix [rows, columns] lies as the canonical file has it, row after row, read 16 bytes at a time. Few
tokens take `rows_product`, which is bound by reading the matrix once: a row's columns are split over lanes.
Many take `tile_product`, which keeps a tile of both sides in shared memory.

What follows a product is part of its kernel: a bias; the residual's sum (`add`); or, where the matrix holds
gate and up one behind the other, silu(gate) · up (`gated`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compilers.tvm.gpu import code
from compilers.tvm.gpu.code import Buffer, Expr, GpuKernel, PrimFunc

Mode = Literal["plain", "add", "gated"]
Weights = Literal["float32", "float16", "int8", "int4"]

LANES = 16
"""Threads that share a row in `rows_product`."""
ROWS_EACH = 2
"""Rows of each thread there."""
ROWS_THREADS = 128
TILE = 64
"""Tokens and rows of a tile."""
TILE_THREADS = 128
DEPTH = 32
"""Columns of a tile."""
_TOKENS_EACH, _ROWS_OF_TILE = 8, 4


@dataclass(frozen=True, slots=True)
class Form:
    """How the elements of a matrix are stored."""

    weights: Weights
    group: int = 0
    """Columns that share a scale, where there are scales."""

    @property
    def per_load(self) -> int:
        """Elements of 16 bytes."""
        return {"float32": 4, "float16": 8, "int8": 16, "int4": 32}[self.weights]

    def elements(self, words: list[Expr]) -> list[Expr]:
        """The elements of some words as float32, without their scale."""
        match self.weights:
            case "float32":
                return [code.as_float(word) for word in words]
            case "float16":
                return [element for word in words for element in code.halves(word)]
            case "int8":
                return [element for word in words for element in code.octets(word)]
            case "int4":
                return [element for word in words for element in code.nibbles(word)]


def rows_at_once(mode: Mode, *, tiled: bool) -> int:
    """Outputs that one block computes of each token."""
    if tiled:
        return TILE // _parts(mode)
    return ROWS_THREADS // LANES * ROWS_EACH


def rows_product(made: dict[str, PrimFunc], name: str, *, form: Form, mode: Mode, tokens: int) -> None:
    """For few tokens, `tokens` of them in each block; arguments as `_Arguments` says."""
    with code.building(name, made) as kernel:
        given = _Arguments(kernel, form)
        with kernel.block(ROWS_THREADS) as (block, token_block, thread):
            lane, group = code.bind(thread % LANES), code.bind(thread // LANES)
            first_row = code.bind(block * rows_at_once(mode, tiled=False))
            first_token = code.bind(token_block * tokens)
            rows = [
                code.bind(given.matrix_row(first_row + group * ROWS_EACH + each, part))
                for each in range(ROWS_EACH)
                for part in range(_parts(mode))
            ]
            places = [code.bind(given.token(first_token + t)) for t in range(tokens)]
            sums = code.local(len(rows) * tokens)
            for slot in range(len(rows) * tokens):
                code.store(sums, code.number(0.0), slot)
            steps = given.columns // form.per_load
            with code.serial((steps + (LANES - 1) - lane) // LANES) as turn:
                step = code.bind(turn * LANES + lane)
                inputs = [given.inputs(place, step, form.per_load) for place in places]
                for slot, row in enumerate(rows):
                    elements = [code.bind(e) for e in given.elements(row, step)]
                    scale = given.scale(row, step * form.per_load)
                    for t in range(tokens):
                        at = slot * tokens + t
                        part = code.total([x * w for x, w in zip(inputs[t], elements, strict=True)])
                        code.store(sums, sums[at] + (part if scale is None else part * scale), at)
            joined = code.shared(len(rows) * tokens, ROWS_THREADS)
            for slot in range(len(rows) * tokens):
                code.store(joined, sums[slot], slot, thread)
            code.barrier()
            outputs = ROWS_THREADS // LANES * ROWS_EACH
            with code.when(thread < outputs * tokens):
                each, t = code.bind(thread % outputs), code.bind(thread // outputs)
                parts = code.local(_parts(mode))
                for part in range(_parts(mode)):
                    slot = code.bind(((each % ROWS_EACH) * _parts(mode) + part) * tokens + t)
                    code.store(parts, code.number(0.0), part)
                    with code.serial(LANES) as other:
                        more = joined[slot, each // ROWS_EACH * LANES + other]
                        code.store(parts, parts[part] + more, part)
                given.finish(mode, parts, first_row + each, first_token + t)


def tile_product(made: dict[str, PrimFunc], name: str, *, form: Form, mode: Mode) -> None:
    """For many tokens, `TILE` of them in each block; arguments as `_Arguments` says."""
    with code.building(name, made) as kernel:
        given = _Arguments(kernel, form)
        with kernel.block(TILE_THREADS) as (block, token_block, thread):
            first_row = code.bind(block * rows_at_once(mode, tiled=True))
            first_token = code.bind(token_block * TILE)
            column, line = code.bind(thread % 16), code.bind(thread // 16)
            x_tile = code.shared(DEPTH, TILE // 4, 4)
            w_tile = code.shared(DEPTH, TILE // 4, 4)
            sums = code.local(_TOKENS_EACH * _ROWS_OF_TILE)
            for slot in range(_TOKENS_EACH * _ROWS_OF_TILE):
                code.store(sums, code.number(0.0), slot)
            fill = _Fill(given, form, mode, thread, first_row, first_token)
            with code.serial((given.columns + (DEPTH - 1)) // DEPTH) as step:
                code.barrier()
                fill.inputs(x_tile, step)
                fill.weights(w_tile, step)
                code.barrier()
                with code.serial(DEPTH) as k:
                    x = [e for part in (0, 1) for e in code.quad(x_tile, k, line * 2 + part)]
                    w = code.quad(w_tile, k, column)
                    for i in range(_TOKENS_EACH):
                        for j in range(_ROWS_OF_TILE):
                            slot = i * _ROWS_OF_TILE + j
                            code.store(sums, sums[slot] + x[i] * w[j], slot)
            outputs = _ROWS_OF_TILE // _parts(mode)
            for i in range(_TOKENS_EACH):
                for j in range(outputs):
                    parts = code.local(_parts(mode))
                    for part in range(_parts(mode)):
                        code.store(parts, sums[i * _ROWS_OF_TILE + part * outputs + j], part)
                    row = first_row + column * outputs + j
                    given.finish(mode, parts, row, first_token + line * _TOKENS_EACH + i)


class _Arguments:
    """What both kinds of products take.

    x [tokens, columns]; w, the matrix; scales [rows, columns / group], for codes only; bias; y [tokens,
    width]; then count (tokens), rows (outputs of a token), columns, width and has_bias (0 or 1).
    """

    def __init__(self, kernel: GpuKernel, form: Form) -> None:
        self.form = form
        self.x = kernel.quads("x")
        self.w = kernel.words("w")
        self.scales: Buffer = kernel.floats("scales") if form.group else None
        self.bias = kernel.floats("bias")
        self.y = kernel.floats("y")
        self.count = kernel.number("count")
        self.rows = kernel.number("rows")
        self.columns = kernel.number("columns")
        self.width = kernel.number("width")
        self.has_bias = kernel.number("has_bias")

    def matrix_row(self, row: Expr, part: int) -> Expr:
        """A row's number in the matrix; rows behind the last one read the last."""
        return code.least(row, self.rows - 1) + part * self.rows

    def token(self, token: Expr) -> Expr:
        """A token's number; tokens behind the last one read the last."""
        return code.least(token, self.count - 1)

    def inputs(self, token: Expr, step: Expr, count: int) -> list[Expr]:
        """`count` inputs of a token, the `step`-th time."""
        start = code.bind(code.wide(token) * code.wide(self.columns // 4) + code.wide(step * (count // 4)))
        return [e for part in range(count // 4) for e in code.quad(self.x, start + part)]

    def elements(self, row: Expr, step: Expr) -> list[Expr]:
        """Elements of a row, the `step`-th 16 bytes of it."""
        loads = self.columns // self.form.per_load
        return self.form.elements(code.quad(self.w, code.wide(row) * code.wide(loads) + code.wide(step)))

    def scale(self, row: Expr, column: Expr) -> Expr | None:
        """The scale of a column of a row."""
        if not self.form.group:
            return None
        groups = self.columns // self.form.group
        return code.bind(
            self.scales[code.wide(row) * code.wide(groups) + code.wide(column // self.form.group)]
        )

    def finish(self, mode: Mode, sums: Buffer, row: Expr, token: Expr) -> None:
        """Write one output, if there is one of that row and token."""
        with code.when(code.both(row < self.rows, token < self.count)):
            values = [
                code.bind(
                    sums[part]
                    + code.either(self.has_bias > 0, self.bias[row + part * self.rows], code.number(0.0))
                )
                for part in range(_parts(mode))
            ]
            at = code.bind(code.wide(token) * code.wide(self.width) + code.wide(row))
            match mode:
                case "plain":
                    code.store(self.y, values[0], at)
                case "add":
                    code.store(self.y, self.y[at] + values[0], at)
                case "gated":
                    gate, up = values
                    one = code.number(1.0)
                    code.store(self.y, gate / (one + code.exponential(code.number(0.0) - gate)) * up, at)


class _Fill:
    """Copies tiles into shared memory, transposed, as float32; zeros behind the last column."""

    def __init__(
        self, given: _Arguments, form: Form, mode: Mode, thread: Expr, first_row: Expr, first_token: Expr
    ) -> None:
        self.given, self.form = given, form
        self.at, self.half = code.bind(thread % TILE), code.bind(thread // TILE)
        self.token = code.bind(given.token(first_token + self.at))
        outputs = _ROWS_OF_TILE // _parts(mode)
        column, j = self.at // _ROWS_OF_TILE, self.at % _ROWS_OF_TILE
        # Neighbouring rows of a tile go to one thread: with `gated`, a gate and its up.
        row = code.least(first_row + column * outputs + j % outputs, given.rows - 1)
        self.row = code.bind(row + j // outputs * given.rows)

    def inputs(self, tile: Buffer, step: Expr) -> None:
        """Sixteen columns of one token by each thread."""
        given = self.given
        for part in range(4):
            quad = code.bind(step * (DEPTH // 4) + self.half * 4 + part)
            start = code.wide(self.token) * code.wide(given.columns // 4) + code.wide(
                code.least(quad, given.columns // 4 - 1)
            )
            self._put(tile, part * 4, code.quad(given.x, start), quad * 4)

    def weights(self, tile: Buffer, step: Expr) -> None:
        """Sixteen columns of one row by each thread."""
        given, per_load = self.given, self.form.per_load
        loads = given.columns // per_load
        base = code.bind(code.wide(self.row) * code.wide(loads))
        if self.form.group:
            group = step * DEPTH // self.form.group
            row = code.wide(self.row) * code.wide(given.columns // self.form.group)
            scale = code.bind(given.scales[row + code.wide(group)])

            if self.form.weights == "int8":
                words = code.quad(given.w, base + code.wide(step * 2 + self.half))
                for index, element in enumerate(self.form.elements(words)):
                    code.store(tile, element * scale, self.half * 16 + index, self.at // 4, self.at % 4)
                return
            for half in (0, 1):
                with code.when(self.half == half):
                    words = code.quad(given.w, base + code.wide(step), start=half * 2, lanes=2)
                    for index, element in enumerate(self.form.elements(words)):
                        code.store(tile, element * scale, half * 16 + index, self.at // 4, self.at % 4)
            return
        for part in range(16 // per_load):
            at = code.bind((step * DEPTH + self.half * 16) // per_load + part)
            words = code.quad(given.w, base + code.wide(code.least(at, loads - 1)))
            self._put(tile, part * per_load, self.form.elements(words), at * per_load)

    def _put(self, tile: Buffer, start: int, values: list[Expr], column: Expr) -> None:
        inside = code.bind(column < self.given.columns)
        for index, value in enumerate(values):
            kept = code.select(inside, value, code.number(0.0))
            code.store(tile, kept, self.half * 16 + start + index, self.at // 4, self.at % 4)


def _parts(mode: Mode) -> int:
    return 2 if mode == "gated" else 1
