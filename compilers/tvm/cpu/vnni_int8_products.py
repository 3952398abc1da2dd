"""AVX2 and AVX-512 kernels: products of integer weights with 8-bit activations (`vpmaddubsw`, `vpdpbusd`).

Codes of weights are unsigned and activations signed: so `vpdpbusd` multiplies them on machines with VNNI.
Sums start from −zero · Σ activations, so no code needs its zero subtracted. On other machines `vpmaddubsw`
adds pairs of products to 16 bits: 32 inputs of 4-bit codes come to at most 16 · 15 · 127 = 30,480 in such a
lane, so none saturates.

Where there are many tokens, a tile's nibbles are unpacked once, and all tokens pass the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Buffer, Expr, PrimFunc, Register, VectorUnit
from compilers.tvm.cpu.integer import IntegerForm
from compilers.tvm.cpu.linear import GRAIN, Product, blocks, finish, work_of

NIBBLES = 0x0F0F0F0F
PIECE = 8
"""Quads of 4-bit codes whose products fit into 16 bits."""
UNROLLED = 2
"""Quads of 8-bit codes in a loop's body."""


def quad_product(
    made: dict[str, PrimFunc],
    name: str,
    *,
    product: Product,
    form: IntegerForm,
    machine: VectorUnit,
    single: bool,
) -> None:
    """(x codes, x scales, x offsets, w codes, w scales, [bias], y [n, output_width]); `single`: n is 1."""
    with code.building(name, made) as kernel:
        n = 1 if single else kernel.dimension("n")
        groups = form.parts * form.groups(product.columns)
        stored, kind = form.inputs(product.columns, machine)
        x = kernel.buffer("x", (n, stored), kind)
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
        size = max(1, ((12 if wide else 6) if form.group is None else (6 if wide else 3)) // form.parts)

        def run(t: Expr) -> None:
            if single:
                body.block(t, 0, 1)
                return
            unpacked = body.unpack(t, needed=n >= size) if form.bits == 4 else None
            blocks(
                n, size, lambda first, count: body.block(t, first, count, unpacked if count == size else None)
            )

        code.spread(shape[0], run, work=work_of(product, single=single), grain=GRAIN)


@dataclass(frozen=True, slots=True)
class _Quad:
    """Four inputs of some tokens."""

    weights: list[Expr]
    """Codes, per vector of outputs."""
    inputs: list[Expr]
    """Per token and part, the same in all lanes."""


class _Body:
    """The inner loops over one tile."""

    def __init__(
        self, product: Product, form: IntegerForm, machine: VectorUnit, buffers: tuple[Buffer, ...]
    ) -> None:
        self.product = product
        self.form = form
        self.machine = machine
        self.x, self.x_scales, self.offsets, self.w, self.scales, self.bias, self.y = buffers
        self.vectors = form.tile(machine) // machine.lanes
        self.groups = form.groups(product.columns)
        self.row = form.inputs(product.columns, machine)[0] // form.parts
        """Elements of one part of a token."""
        self.quads = self.row // 4 // self.groups
        """Of a group."""
        self.nothing = code.nothing(self.x.shape[0])

    def unpack(self, t: Expr, *, needed: Expr) -> Buffer:
        """The nibbles of a tile as bytes [quads, vectors, 4 · lanes]."""
        lanes, rows = self.machine.lanes, self.product.columns // 8
        unpacked = code.workspace(rows * 8 * self.vectors * lanes, "uint8")
        with code.when(needed), code.serial(rows) as row:
            for v in range(self.vectors):
                word = code.bind(code.load(self.w, t, row, v * lanes, lanes=lanes))
                for half in range(2):
                    at = ((2 * row + half) * self.vectors + v) * 4 * lanes
                    code.store(unpacked, self._nibbles(word, half), at, lanes=4 * lanes)
        return unpacked

    def block(self, t: Expr, first: Expr, count: int, unpacked: Buffer | None = None) -> None:
        """`count` tokens from `first` on."""
        lanes, groups, parts = self.machine.lanes, self.groups, self.form.parts
        rows = [divmod(row, parts) for row in range(count * parts)]
        floats = [[Register(lanes) for _ in range(self.vectors)] for _ in range(count)]
        # One token alone needs several sums, or it would wait for the latency of each multiplication.
        chains = 2 if len(rows) == 1 and self.machine.has_vnni else 1
        with code.serial(groups) as g:
            starts = [
                code.bind(code.splat(self.offsets[first + token, part * groups + g], lanes, "int32"))
                for token, part in rows
            ]
            sums = [self._sums(start, chains) for start in starts]
            self._group(t, first, g, sums, unpacked)
            for v in range(self.vectors):
                scale = code.bind(code.load(self.scales, t, g, v * lanes, lanes=lanes))
                for row, (token, part) in enumerate(rows):
                    whole = sum(chain[v].get() for chain in sums[row])
                    if not self.machine.has_vnni:
                        whole = whole + starts[row]
                    factor = scale * code.splat(self.x_scales[first + token, part * groups + g], lanes)
                    floats[token][v].add(code.convert(whole, "float32", lanes) * factor)
        for token in range(count):
            values = [register.get() for register in floats[token]]
            finish(self.y, self.bias, first + token, t, values, self.product.mode, lanes)

    def _sums(self, start: Expr, chains: int) -> list[list[Register]]:
        """The first chain begins with `start`, if products are added to it directly."""
        lanes = self.machine.lanes
        zero = code.splat(0, lanes, "int32")
        begins = [start, zero] if self.machine.has_vnni else [zero]
        return [
            [Register(lanes, "int32", value=begin) for _ in range(self.vectors)] for begin in begins[:chains]
        ]

    def _group(
        self, t: Expr, first: Expr, g: Expr, sums: list[list[list[Register]]], unpacked: Buffer | None
    ) -> None:
        """All inputs of a group."""
        size = PIECE if self.form.bits == 4 else UNROLLED
        start = code.bind(g * self.quads)
        whole = self.quads // size
        if whole == 1:
            self._piece(t, first, start, size, sums, unpacked)
        else:
            with code.serial(whole) as piece:
                self._piece(t, first, start + piece * size, size, sums, unpacked)
        if rest := self.quads % size:
            self._piece(t, first, start + whole * size, rest, sums, unpacked)

    def _piece(
        self,
        t: Expr,
        first: Expr,
        start: Expr,
        count: int,
        sums: list[list[list[Register]]],
        unpacked: Buffer | None,
    ) -> None:
        """`count` quads from `start` on."""
        if self.machine.has_vnni:
            for index, quad in enumerate(self._quads(t, first, start, count, len(sums), unpacked)):
                for chains, inputs in zip(sums, quad.inputs, strict=True):
                    for register, weight in zip(chains[index // 2 % len(chains)], quad.weights, strict=True):
                        register.set(code.dot_quads(register.get(), weight, inputs, self.machine))
            return
        lanes = 2 * self.machine.lanes
        halves = [[Register(lanes, "int16") for _ in range(self.vectors)] for _ in sums]
        # A loop of which LLVM does not know that it runs four times: unrolled, its scheduler would group the
        # products by token, and keep all inputs of the piece on the stack.
        with code.serial(count // 2 + self.nothing) as step:
            for quad in self._quads(t, first, start + step * 2, 2, len(sums), unpacked):
                for registers, inputs in zip(halves, quad.inputs, strict=True):
                    for register, weight in zip(registers, quad.weights, strict=True):
                        register.add(code.multiply_bytes(weight, inputs, self.machine))
        for chains, registers in zip(sums, halves, strict=True):
            for register, half in zip(chains[0], registers, strict=True):
                register.add(code.add_pairs(half.get(), self.machine))

    def _quads(
        self, t: Expr, first: Expr, start: Expr, count: int, rows: int, unpacked: Buffer | None
    ) -> Iterator[_Quad]:
        """Some quads of inputs, one after the other."""
        lanes = self.machine.lanes
        for index, weights in enumerate(self._weights(t, start, count, unpacked)):
            inputs = []
            for row in range(rows):
                token, part = divmod(row, self.form.parts)
                four = code.load(self.x, first + token, part * self.row + (start + index) * 4, lanes=4)
                one = code.splat(code.reinterpret(four, "int32"), lanes)
                inputs.append(code.bind(code.reinterpret(one, "int8", 4 * lanes)))
            yield _Quad(weights, inputs)

    def _weights(self, t: Expr, start: Expr, count: int, unpacked: Buffer | None) -> Iterator[list[Expr]]:
        """Per quad of inputs, the codes of each vector."""
        lanes = self.machine.lanes
        words: list[Expr] = []
        for index in range(count):
            quad = start + index
            if self.form.bits == 8:
                found = [
                    code.load(self.w, t, quad, v * 4 * lanes, lanes=4 * lanes) for v in range(self.vectors)
                ]
            elif unpacked is not None:
                places = [(quad * self.vectors + v) * 4 * lanes for v in range(self.vectors)]
                found = [code.load(unpacked, place, lanes=4 * lanes) for place in places]
            else:
                if index % 2 == 0:
                    row = (start + index) // 2
                    loaded = [code.load(self.w, t, row, v * lanes, lanes=lanes) for v in range(self.vectors)]
                    words = [code.bind(word) for word in loaded]
                found = [self._nibbles(word, index % 2) for word in words]
            yield [code.bind(vector) for vector in found]

    def _nibbles(self, word: Expr, half: int) -> Expr:
        """Four inputs of each output, from a word of eight: see `pack.pack_nibbles`."""
        lanes = self.machine.lanes
        word = word >> code.splat(4, lanes, "int32") if half else word
        return code.reinterpret(word & code.splat(NIBBLES, lanes, "int32"), "uint8", 4 * lanes)
