"""AVX2 and AVX-512 kernels: products of integer weights with 16-bit activations (`vpmaddwd`, `vpdpwssd`).

Pairs are what `vpmaddwd` multiplies on every AVX2 machine and `vpdpwssd` on machines with VNNI. A group adds
at most 128 · 32767 · 128 < 2³¹ in absolute value.
"""

from __future__ import annotations

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Buffer, Expr, PrimFunc, Register, VectorUnit
from compilers.tvm.cpu.integer import IntegerForm
from compilers.tvm.cpu.linear import GRAIN, Product, blocks, finish, work_of


def pair_product(
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
        kernel.buffer("offsets", (n, groups), "int32")  # zero: codes are signed
        shape, dtype = form.codes(product, machine)
        w = kernel.buffer("w", shape, dtype)
        scales = kernel.buffer("scales", form.scales(product, machine))
        tile = form.tile(machine)
        bias = kernel.buffer("bias", (shape[0] * tile,)) if product.bias else None
        y = kernel.buffer("y", (n, product.output_width))
        body = _Body(product, form, machine, (x, x_scales, w, scales, bias, y))
        wide = machine.registers > 16
        size = max(1, ((12 if wide else 6) if form.group is None else (6 if wide else 3)) // form.parts)

        def run(t: Expr) -> None:
            if single:
                body.block(t, 0, 1)
            else:
                blocks(n, size, lambda first, count: body.block(t, first, count))

        code.spread(shape[0], run, work=work_of(product, single=single), grain=GRAIN)


class _Body:
    """The inner loops over one tile."""

    def __init__(
        self, product: Product, form: IntegerForm, machine: VectorUnit, buffers: tuple[Buffer, ...]
    ) -> None:
        self.product = product
        self.form = form
        self.machine = machine
        self.x, self.x_scales, self.w, self.scales, self.bias, self.y = buffers
        self.vectors = form.tile(machine) // machine.lanes
        self.groups = form.groups(product.columns)
        self.row = form.inputs(product.columns, machine)[0] // form.parts
        """Elements of one part of a token."""

    def block(self, t: Expr, first: Expr, count: int) -> None:
        """`count` tokens from `first` on."""
        lanes, groups, parts = self.machine.lanes, self.groups, self.form.parts
        floats = [[Register(lanes) for _ in range(self.vectors)] for _ in range(count)]
        steps = self.form.codes(self.product, self.machine)[0][1] // groups
        # One token alone needs several sums, or it would wait for the latency of each multiplication.
        chains = 2 if count * parts == 1 else 1
        with code.serial(groups) as g:
            sums = [
                [[Register(lanes, "int32") for _ in range(self.vectors)] for _ in range(chains)]
                for _ in range(count * parts)
            ]
            with code.serial(steps // chains) as s:
                for chain in range(chains):
                    self._multiply(t, first, g * steps + s * chains + chain, sums, chain)
            for odd in range(steps // chains * chains, steps):
                self._multiply(t, first, g * steps + odd, sums, 0)
            for v in range(self.vectors):
                scale = code.bind(code.load(self.scales, t, g, v * lanes, lanes=lanes))
                for row in range(count * parts):
                    token, part = divmod(row, parts)
                    whole = sum(sums[row][chain][v].get() for chain in range(chains))
                    factor = scale * code.splat(self.x_scales[first + token, part * groups + g], lanes)
                    floats[token][v].add(code.convert(whole, "float32", lanes) * factor)
        for token in range(count):
            values = [register.get() for register in floats[token]]
            finish(self.y, self.bias, first + token, t, values, self.product.mode, lanes)

    def _multiply(
        self, t: Expr, first: Expr, row: Expr, sums: list[list[list[Register]]], chain: int
    ) -> None:
        """One pair of inputs."""
        lanes = self.machine.lanes
        columns = [code.load(self.w, t, row, v * 2 * lanes, lanes=2 * lanes) for v in range(self.vectors)]
        weights = [code.bind(code.convert(column, "int16", 2 * lanes)) for column in columns]
        for index, registers in enumerate(sums):
            token, part = divmod(index, self.form.parts)
            place = part * self.row + row * 2
            pair = code.reinterpret(code.load(self.x, first + token, place, lanes=2), "int32")
            both = code.bind(code.reinterpret(code.splat(pair, lanes), "int16", 2 * lanes))
            for v, weight in enumerate(weights):
                register = registers[chain][v]
                register.set(code.dot_pairs(register.get(), both, weight, self.machine))
