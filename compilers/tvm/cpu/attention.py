"""The attention kernel: each token against its own row of the cache, in one pass over the keys.

Softmax is computed online over chunks of 64 positions (https://arxiv.org/abs/1805.02867), which start at
multiples of 64: so a token's result does not depend on what else is in the batch. All heads of a group
share each load of K and V. K lies transposed in blocks of 16 positions, so scores are vectors over
positions, and no product needs a sum over lanes.
"""

from __future__ import annotations

from dataclasses import dataclass

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Buffer, Expr, PrimFunc, Register, VectorUnit
from compilers.tvm.cpu.plan import BLOCK, CHUNK

HEADS_AT_ONCE = 8
"""Heads that share each load of K and V."""
UNSEEN = -1e30
GRAIN = 1 << 16
"""Estimated multiplications from which on threads are worth waking."""


@dataclass(frozen=True, slots=True)
class AttentionShape:
    """The sizes of an attention."""

    heads: int
    kv_heads: int
    head_size: int


def attention(made: dict[str, PrimFunc], name: str, *, shape: AttentionShape, machine: VectorUnit) -> None:
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
        together = max(size for size in range(1, HEADS_AT_ONCE + 1) if group % size == 0)

        def unit(index: Expr) -> None:
            i, g = code.bind(index // shape.kv_heads), code.bind(index % shape.kv_heads)
            row, position = code.bind(rows[i]), code.bind(positions[i])
            first = code.bind(code.largest(position - window + 1, 0))
            body = _Unit(shape, machine, together, (q, keys, values, out), (i, g, row, position, first))
            with code.serial(group // together) as part:
                body.run(g * group + part * together)

        n = kernel.dimension("n")
        work = n * (shape.heads * shape.head_size) * (positions[n - 1] + 1)
        code.spread(n * shape.kv_heads, unit, work=work, grain=GRAIN)


class _Unit:
    """One token and some heads of one group."""

    def __init__(
        self,
        shape: AttentionShape,
        machine: VectorUnit,
        count: int,
        buffers: tuple[Buffer, ...],
        place: tuple[Expr, ...],
    ) -> None:
        self.size = shape.head_size
        self.lanes = machine.lanes
        self.count = count
        self.at_once = max(1, (24 if machine.registers > 16 else 10) // count)
        """Vectors per head that are summed at once."""
        self.q, self.keys, self.values, self.out = buffers
        self.i, self.g, self.row, self.position, self.first = place

    def run(self, head: Expr) -> None:
        """The heads from `head` on."""
        base = code.bind(head * self.size)
        self.peaks, self.sums = code.local(self.count), code.local(self.count)
        self.limits = code.local(self.count * self.lanes)
        self.scores = code.local(self.count * CHUNK)
        self.totals = code.local(self.count * self.size)
        with code.serial(self.count) as h:
            code.store(self.peaks, code.splat(UNSEEN, 1), h, lanes=1)
            code.store(self.sums, code.splat(0.0, 1), h, lanes=1)
        with code.serial(self.count * self.size) as j:
            code.store(self.totals, code.splat(0.0, 1), j, lanes=1)
        with code.serial(self.first // CHUNK, self.position // CHUNK + 1) as chunk:
            self._score(chunk, base)
            with code.serial(self.count) as h:
                self._soften(h)
            self._mix(chunk, code.bind(code.least(CHUNK, self.position + 1 - chunk * CHUNK)))
        with code.serial(self.count) as h:
            scale = code.bind(1.0 / self.sums[h])
            with code.serial(self.size) as j:
                total = self.totals[h * self.size + j]
                code.store(self.out, total * scale, self.i, base + h * self.size + j, lanes=1)

    def _score(self, chunk: Expr, base: Expr) -> None:
        """Scores of one chunk; `limits` collects the largest per lane."""
        lanes = self.lanes
        scale = code.splat(self.size**-0.5, lanes)
        vectors = CHUNK // lanes
        at_once = max(size for size in (1, 2, 4, 8) if size <= min(self.at_once, vectors))
        with code.serial(self.count) as h:
            code.store(self.limits, code.splat(UNSEEN, lanes), h * lanes, lanes=lanes)
        with code.serial(vectors // at_once) as step:
            slots = [code.bind((step * at_once + part) * lanes) for part in range(at_once)]
            sums = [[Register(lanes) for _ in slots] for _ in range(self.count)]
            with code.serial(self.size) as d:
                columns = []
                for slot in slots:
                    place = (self.row, self.g, chunk * (CHUNK // BLOCK) + slot // BLOCK, d, slot % BLOCK)
                    columns.append(code.bind(code.load(self.keys, *place, lanes=lanes)))
                for h in range(self.count):
                    query = code.bind(code.splat(self.q[self.i, base + h * self.size + d], lanes))
                    for part, column in enumerate(columns):
                        sums[h][part].add(query * column)
            for part, slot in enumerate(slots):
                key = code.bind(code.iota(chunk * CHUNK + slot, lanes))
                seen = code.both(
                    key <= code.splat(self.position, lanes, "int32"),
                    key >= code.splat(self.first, lanes, "int32"),
                )
                for h in range(self.count):
                    score = code.select(seen, sums[h][part].get() * scale, code.splat(UNSEEN, lanes))
                    score = code.bind(score)
                    code.store(self.scores, score, h * CHUNK + slot, lanes=lanes)
                    limit = code.load(self.limits, h * lanes, lanes=lanes)
                    code.store(self.limits, code.largest(limit, score), h * lanes, lanes=lanes)

    def _soften(self, h: Expr) -> None:
        """Scores to weights, relative to the largest score so far."""
        lanes = self.lanes
        limit = Register(lanes, value=code.load(self.limits, h * lanes, lanes=lanes))
        peak = code.bind(code.largest(self.peaks[h], limit.reduce(code.largest)))
        shrink = code.bind(code.exponential(self.peaks[h] - peak, 1))
        code.store(self.peaks, peak, h, lanes=1)
        sums = Register(lanes)
        with code.serial(CHUNK // lanes) as step:
            at = code.bind(h * CHUNK + step * lanes)
            score = code.load(self.scores, at, lanes=lanes)
            weight = code.exponential(score - code.splat(peak, lanes), lanes)
            code.store(self.scores, weight, at, lanes=lanes)
            sums.add(weight)
        code.store(self.sums, self.sums[h] * shrink + sums.reduce(code.total), h, lanes=1)
        with code.serial(self.size) as j:
            at = code.bind(h * self.size + j)
            code.store(self.totals, self.totals[at] * shrink, at, lanes=1)

    def _mix(self, chunk: Expr, count: Expr) -> None:
        """Add the chunk's values, weighted; elements behind the last whole vector go one by one."""
        lanes = self.lanes
        whole = self.size // lanes
        vectors = max((size for size in range(1, self.at_once + 1) if whole % size == 0), default=1)
        with code.serial(whole // vectors) as piece:
            starts = [code.bind((piece * vectors + part) * lanes) for part in range(vectors)]
            self._add(chunk, count, starts, lanes)
        with code.serial(whole * lanes, self.size) as j:
            self._add(chunk, count, [j], 1)

    def _add(self, chunk: Expr, count: Expr, starts: list[Expr], lanes: int) -> None:
        sums = [
            [
                Register(lanes, value=code.load(self.totals, h * self.size + start, lanes=lanes))
                for start in starts
            ]
            for h in range(self.count)
        ]
        with code.serial(count) as t:
            place = (self.row, self.g, chunk * (CHUNK // BLOCK) + t // BLOCK, t % BLOCK)
            loaded = [code.bind(code.load(self.values, *place, start, lanes=lanes)) for start in starts]
            for h in range(self.count):
                weight = code.bind(code.splat(self.scores[h * CHUNK + t], lanes))
                for register, value in zip(sums[h], loaded, strict=True):
                    register.add(weight * value)
        for h in range(self.count):
            for register, start in zip(sums[h], starts, strict=True):
                code.store(self.totals, register.get(), h * self.size + start, lanes=lanes)
