"""The attention kernel: each token against its own row of the cache, in one pass over the keys.

Softmax is computed online over chunks of 64 positions (https://arxiv.org/abs/1805.02867), which start at multiples of
64: so a token's result does not depend on what else is in the batch. All heads of a group share each load of K and V.
K lies transposed in blocks of 16 positions, so scores are vectors over positions, and no product needs a sum over
lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

from compilers.tvm import code
from compilers.tvm.code import Buffer, Expr, Machine, PrimFunc, Register
from compilers.tvm.plan import BLOCK, CHUNK

HEADS_AT_ONCE = 4
UNSEEN = -1e30
GRAIN = 1 << 16
"""Estimated multiplications from which on threads are worth waking."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of an attention."""

    heads: int
    kv_heads: int
    head_size: int


def attention(made: dict[str, PrimFunc], name: str, *, shape: Shape, machine: Machine) -> None:
    """(q [n, heads · head_size], positions, rows, K cache, V cache, out as q, window).

    `window` is how many keys a query sees, itself included.
    """
    with code.building(name, made) as kernel:
        q = kernel.buffer("q", ("n", shape.heads * shape.head_size))
        positions = kernel.buffer("positions", ("n",), "int32")
        rows = kernel.buffer("rows", ("n",), "int32")
        keys = kernel.buffer("keys", ("rows", shape.kv_heads, "blocks", shape.head_size, BLOCK))
        values = kernel.buffer("values", ("rows", shape.kv_heads, "blocks", BLOCK, shape.head_size))
        out = kernel.buffer("out", ("n", shape.heads * shape.head_size))
        window = kernel.integer("window")
        group = shape.heads // shape.kv_heads

        def unit(index: Expr) -> None:
            i, g = code.bind(index // shape.kv_heads), code.bind(index % shape.kv_heads)
            row, position = code.bind(rows[i]), code.bind(positions[i])
            first = code.bind(code.largest(position - window + 1, 0))
            unit = _Unit(shape, machine, (q, keys, values, out), (i, g, row, position, first))
            for start in range(0, group, HEADS_AT_ONCE):
                unit.heads(g * group, range(start, min(start + HEADS_AT_ONCE, group)))

        n = kernel.dimension("n")
        work = n * (shape.heads * shape.head_size) * (positions[n - 1] + 1)
        code.spread(n * shape.kv_heads, unit, work=work, grain=GRAIN)


class _Unit:
    """One token and one group of heads."""

    def __init__(
        self, shape: Shape, machine: Machine, buffers: tuple[Buffer, ...], place: tuple[Expr, ...]
    ) -> None:
        self.shape = shape
        self.lanes = machine.lanes
        self.wide = machine.registers > 16
        self.q, self.keys, self.values, self.out = buffers
        self.i, self.g, self.row, self.position, self.first = place
        # The head's elements in whole vectors; a rest shorter than a vector goes element by element.
        self.vectors = shape.head_size // self.lanes
        self.rest = shape.head_size - self.vectors * self.lanes

    def heads(self, base: Expr, heads: range) -> None:
        """The heads `base` + `heads` together."""
        self.base = [code.bind((base + h) * self.shape.head_size) for h in heads]
        self.peak = [Register(1, value=UNSEEN) for _ in heads]
        self.sum = [Register(1) for _ in heads]
        self.total = [code.local(self.shape.head_size) for _ in heads]
        self.scores = [code.local(CHUNK) for _ in heads]
        for total in self.total:
            with code.serial(self.shape.head_size) as j:
                code.store(total, code.splat(0.0, 1), j, lanes=1)
        with code.serial(self.first // CHUNK, self.position // CHUNK + 1) as chunk:
            self._score(chunk)
            for head in range(len(heads)):
                self._soften(head)
            count = code.bind(code.least(CHUNK, self.position + 1 - chunk * CHUNK))
            self._mix(chunk, count)
        for head, base_of in enumerate(self.base):
            scale = code.bind(1.0 / self.sum[head].get())
            with code.serial(self.shape.head_size) as j:
                code.store(self.out, self.total[head][j] * scale, self.i, base_of + j, lanes=1)

    def _score(self, chunk: Expr) -> None:
        """Scores of one chunk; `limits` collects the largest per lane."""
        lanes, heads = self.lanes, len(self.base)
        scale = code.splat(self.shape.head_size**-0.5, lanes)
        self.limits = [Register(lanes, value=UNSEEN) for _ in self.base]
        at_once = min(CHUNK // lanes, max(1, (16 if self.wide else 8) // heads))
        while (CHUNK // lanes) % at_once:
            at_once -= 1
        with code.serial(CHUNK // lanes // at_once) as step:
            sums = [[Register(lanes) for _ in range(at_once)] for _ in self.base]
            with code.serial(self.shape.head_size) as d:
                columns = []
                for part in range(at_once):
                    slot = code.bind((step * at_once + part) * lanes)
                    block = chunk * (CHUNK // BLOCK) + slot // BLOCK
                    place = (self.row, self.g, block, d, slot % BLOCK)
                    columns.append(code.bind(code.load(self.keys, *place, lanes=lanes)))
                for head, base in enumerate(self.base):
                    query = code.bind(code.splat(self.q[self.i, base + d], lanes))
                    for part, column in enumerate(columns):
                        sums[head][part].add(query * column)
            for part in range(at_once):
                slot = code.bind((step * at_once + part) * lanes)
                key = code.bind(code.iota(chunk * CHUNK + slot, lanes))
                seen = code.both(
                    key <= code.splat(self.position, lanes, "int32"),
                    key >= code.splat(self.first, lanes, "int32"),
                )
                for head in range(heads):
                    score = code.select(seen, sums[head][part].get() * scale, code.splat(UNSEEN, lanes))
                    score = code.bind(score)
                    code.store(self.scores[head], score, slot, lanes=lanes)
                    self.limits[head].set(code.largest(self.limits[head].get(), score))

    def _soften(self, head: int) -> None:
        """Scores to weights, relative to the largest score so far."""
        lanes, scores = self.lanes, self.scores[head]
        peak = code.bind(code.largest(self.peak[head].get(), self.limits[head].reduce(code.largest)))
        shrink = code.exponential(self.peak[head].get() - peak, 1)
        self.peak[head].set(peak)
        sums = Register(lanes)
        with code.serial(CHUNK // lanes) as step:
            score = code.load(scores, step * lanes, lanes=lanes)
            weight = code.exponential(score - code.splat(peak, lanes), lanes)
            code.store(scores, weight, step * lanes, lanes=lanes)
            sums.add(weight)
        self.sum[head].set(self.sum[head].get() * shrink + sums.reduce(code.total))
        for j in range(self.vectors):
            scaled = code.load(self.total[head], j * lanes, lanes=lanes) * code.splat(shrink, lanes)
            code.store(self.total[head], scaled, j * lanes, lanes=lanes)
        for j in range(self.vectors * lanes, self.shape.head_size):
            code.store(self.total[head], self.total[head][j] * shrink, j, lanes=1)

    def _mix(self, chunk: Expr, count: Expr) -> None:
        """Add the chunk's values, weighted."""
        lanes = self.lanes
        at_once = max(1, (16 if self.wide else 8) // len(self.base))
        pieces = [
            [(j * lanes, lanes) for j in range(start, min(start + at_once, self.vectors))]
            for start in range(0, self.vectors, at_once)
        ]
        if self.rest:
            tail = [(j, 1) for j in range(self.vectors * lanes, self.shape.head_size)]
            pieces += [tail[start : start + at_once] for start in range(0, len(tail), at_once)]
        for piece in pieces:
            sums = [
                [Register(size, value=code.load(total, at, lanes=size)) for at, size in piece]
                for total in self.total
            ]
            with code.serial(count) as t:
                block = chunk * (CHUNK // BLOCK) + t // BLOCK
                place = (self.row, self.g, block, t % BLOCK)
                loaded = [code.bind(code.load(self.values, *place, at, lanes=size)) for at, size in piece]
                for head in range(len(self.base)):
                    for part, (_, size) in enumerate(piece):
                        weight = code.splat(self.scores[head][t], size)
                        sums[head][part].add(weight * loaded[part])
            for head, total in enumerate(self.total):
                for part, (at, size) in enumerate(piece):
                    code.store(total, sums[head][part].get(), at, lanes=size)
