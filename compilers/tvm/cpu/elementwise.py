"""Kernels that work token by token: norms, rotary positions, writing K and V to the cache.

Rows of activations are padded with zeros to `WIDTH` elements, so that vector loops have no tails.
"""

from __future__ import annotations

from collections.abc import Callable

from compilers.tvm.cpu import code
from compilers.tvm.cpu.code import Buffer, Expr, Kernel, PrimFunc, Register, VectorUnit
from compilers.tvm.cpu.plan import BLOCK

WIDTH = 64
"""Elements that a row of activations is padded to a multiple of."""
GRAIN = 1 << 15
"""Elements from which on a kernel of this file is worth waking threads for."""


def padded(width: int) -> int:
    """Elements of a padded row."""
    return code.ceil_to(width, WIDTH)


def rms_norm(
    made: dict[str, PrimFunc], name: str, *, machine: VectorUnit, hidden: int, epsilon: float, gather: bool
) -> None:
    """(x [n, padded], weight [padded], out [n, padded]); with `gather` (x [m, padded], index [n], …)."""
    with code.building(name, made) as kernel:
        x = kernel.buffer("x", ("m" if gather else "n", padded(hidden)))
        index = kernel.buffer("index", ("n",), "int32") if gather else None
        weight = kernel.buffer("weight", (padded(hidden),))
        out = kernel.buffer("out", ("n", padded(hidden)))
        lanes = machine.lanes

        def token(i: Expr) -> None:
            row = i if index is None else code.bind(index[i])
            squares = [Register(lanes) for _ in range(4)]
            with code.serial(padded(hidden) // (4 * lanes)) as step:
                for part, register in enumerate(squares):
                    value = code.bind(code.load(x, row, (step * 4 + part) * lanes, lanes=lanes))
                    register.add(value * value)
            squares[0].add(squares[1].get() + (squares[2].get() + squares[3].get()))
            scale = _inverse_root(squares[0].reduce(code.total), hidden, epsilon)
            with code.serial(padded(hidden) // lanes) as step:
                at = step * lanes
                scaled = code.load(x, row, at, lanes=lanes) * code.splat(scale, lanes)
                code.store(out, scaled * code.load(weight, at, lanes=lanes), i, at, lanes=lanes)

        _for_tokens(kernel, token, hidden)


def rotation(made: dict[str, PrimFunc], name: str, *, half: int, scale: float) -> None:
    """(positions [n], inv_freq [half], out [n, 2, half]): cos and sin of each token's angles."""
    with code.building(name, made) as kernel:
        positions = kernel.buffer("positions", ("n",), "int32")
        frequencies = kernel.buffer("inv_freq", (half,), align=4)
        out = kernel.buffer("out", ("n", 2, half))

        def token(i: Expr) -> None:
            position = code.bind(code.convert(positions[i], "float32"))
            with code.serial(half) as j:
                angle = code.bind(position * frequencies[j])
                code.store(out, code.cosine(angle) * code.splat(scale, 1), i, 0, j, lanes=1)
                code.store(out, code.sine(angle) * code.splat(scale, 1), i, 1, j, lanes=1)

        _for_tokens(kernel, token, half * 50)


def rotate(
    made: dict[str, PrimFunc], name: str, *, heads: int, kv_heads: int, head_size: int, width: int,
    epsilons: tuple[float | None, float | None],
) -> None:  # fmt: skip
    """(qkv [n, width], angles, positions, rows, [q weight], [k weight], q out, K cache, V cache).

    Norms the heads of q and k where asked, turns them, writes q as [n, heads · head_size] and k and v into
    the cache at the token's row and position. K lies transposed in blocks of 16 positions: `blocks,
    head_size, 16`.
    """
    with code.building(name, made) as kernel:
        qkv = kernel.buffer("qkv", ("n", width))
        angles = kernel.buffer("angles", ("n", 2, head_size // 2))
        positions = kernel.buffer("positions", ("n",), "int32")
        rows = kernel.buffer("rows", ("n",), "int32")
        weights = [
            kernel.buffer(f"{part}_weight", (head_size,), align=4) if epsilon is not None else None
            for part, epsilon in zip("qk", epsilons, strict=True)
        ]
        q_out = kernel.buffer("q_out", ("n", heads * head_size))
        keys = kernel.buffer("keys", ("rows", kv_heads, "blocks", head_size, BLOCK))
        values = kernel.buffer("values", ("rows", kv_heads, "blocks", BLOCK, head_size))

        def token(i: Expr) -> None:
            position, row = code.bind(positions[i]), code.bind(rows[i])
            block, slot = code.bind(position // BLOCK), code.bind(position % BLOCK)

            def turn(head: Expr, part: int, put: Callable[[Expr, Expr], None]) -> None:
                start = code.bind((head + part * heads) * head_size)
                epsilon, weight = epsilons[part], weights[part]
                scale = None if epsilon is None else _head_scale(qkv, i, start, head_size, epsilon)
                half = head_size // 2

                def element(j: Expr) -> Expr:
                    value = qkv[i, start + j]
                    return value if scale is None or weight is None else value * scale * weight[j]

                with code.serial(half) as j:
                    cos, sin = code.bind(angles[i, 0, j]), code.bind(angles[i, 1, j])
                    low, high = code.bind(element(j)), code.bind(element(j + half))
                    put(j, low * cos - high * sin)
                    put(j + half, high * cos + low * sin)

            with code.serial(heads) as h:
                turn(h, 0, lambda j, v: code.store(q_out, v, i, h * head_size + j, lanes=1))
            with code.serial(kv_heads) as h:
                turn(h, 1, lambda j, v: code.store(keys, v, row, h, block, j, slot, lanes=1))
                with code.serial(head_size) as j:
                    value = qkv[i, (heads + kv_heads + h) * head_size + j]
                    code.store(values, value, row, h, block, slot, j, lanes=1)

        _for_tokens(kernel, token, width * 2)


def _head_scale(qkv: Buffer, i: Expr, start: Expr, head_size: int, epsilon: float) -> Expr:
    squares = Register(1)
    with code.serial(head_size) as j:
        value = code.bind(qkv[i, start + j])
        squares.add(value * value)
    return _inverse_root(squares.get(), head_size, epsilon)


def _inverse_root(squares: Expr, count: int, epsilon: float) -> Expr:
    return code.bind(1.0 / code.root(squares / float(count) + epsilon))


def _for_tokens(kernel: Kernel, body: Callable[[Expr], None], work: int) -> None:
    n = kernel.dimension("n")
    code.spread(n, body, work=n * work, grain=GRAIN)
