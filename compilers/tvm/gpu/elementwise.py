"""Kernels around the products: embedding, norms, rotation of queries and keys into the cache.

All numbers of a batch come in one array of words, `batch`: tokens' ids, positions and rows, the places of
the tokens whose logits are wanted (each `count` words long), then for each token its rotation, cosines
behind each other and then sines, as float32.
"""

from __future__ import annotations

from compilers.tvm.gpu import code
from compilers.tvm.gpu.code import Buffer, Expr, PrimFunc
from compilers.tvm.gpu.product import Form

THREADS = 128


def embed(made: dict[str, PrimFunc], name: str, *, half: bool) -> None:
    """Takes table [ids, columns], batch, out [count, width]; the grid is 1 × tokens.

    Args:
        made: Takes the kernel.
        name: Its name.
        half: The table is float16, two in a word.
    """
    with code.building(name, made) as kernel:
        table, batch, out = kernel.flat_words("table"), kernel.integers("batch"), kernel.floats("out")
        hidden, columns, width = (kernel.number(name) for name in ("hidden", "columns", "width"))
        with kernel.block(THREADS) as (_, token, thread):
            row = code.bind(code.wide(batch[token]) * code.wide(columns))
            with code.serial((hidden + (THREADS - 1) - thread) // THREADS) as turn:
                column = code.bind(turn * THREADS + thread)
                if half:
                    low, high = code.halves(code.bind(table[(row + code.wide(column)) // 2]))
                    value = code.select(column % 2 == 0, low, high)
                else:
                    value = code.as_float(code.bind(table[row + code.wide(column)]))
                code.store(out, value, code.wide(token) * code.wide(width) + code.wide(column))


def embed_codes(made: dict[str, PrimFunc], name: str, *, form: Form) -> None:
    """Takes codes [ids, columns], scales [ids, groups], batch, out [count, width]; the grid is 1 × tokens.

    Args:
        made: Takes the kernel.
        name: Its name.
        form: Of the codes, which are integers with scales.
    """
    with code.building(name, made) as kernel:
        table, scales = kernel.flat_words("codes"), kernel.floats("scales")
        batch, out = kernel.integers("batch"), kernel.floats("out")
        hidden, columns, width = (kernel.number(name) for name in ("hidden", "columns", "width"))
        in_word = form.per_load // 4
        with kernel.block(THREADS) as (_, token, thread):
            row = code.bind(code.wide(batch[token]))
            # A thread takes words of codes, all of whose elements share a scale.
            words = code.bind(columns // in_word)
            with code.serial((words + (THREADS - 1) - thread) // THREADS) as turn:
                word = code.bind(turn * THREADS + thread)
                group = code.wide(word // (form.group // in_word))
                scale = code.bind(scales[row * code.wide(columns // form.group) + group])
                found = code.bind(table[row * code.wide(words) + code.wide(word)])
                for index, element in enumerate(form.elements([found])):
                    column = code.bind(word * in_word + index)
                    with code.when(column < hidden):
                        at = code.wide(token) * code.wide(width) + code.wide(column)
                        code.store(out, element * scale, at)


def rms_norm(made: dict[str, PrimFunc], name: str, *, epsilon: float, gather: bool) -> None:
    """Takes x [count, width], weight [hidden], batch, out [tokens, width]; the grid is 1 × tokens.

    Args:
        made: Takes the kernel.
        name: Its name.
        epsilon: Added to the mean square.
        gather: Take the tokens whose logits are wanted, instead of all.
    """
    with code.building(name, made) as kernel:
        x, weight, out = kernel.floats("x"), kernel.floats("weight"), kernel.floats("out")
        batch = kernel.integers("batch") if gather else None
        names = ("hidden", "width", "count") if gather else ("hidden", "width")
        hidden, width, *count = (kernel.number(name) for name in names)
        with kernel.block(THREADS) as (_, token, thread):
            source = token if batch is None else batch[count[0] * 3 + token]
            start = code.bind(code.wide(source) * code.wide(width))
            target = code.bind(code.wide(token) * code.wide(width))
            squares, spare, mine = code.shared(THREADS), code.shared(16), code.local(1)
            turns = code.bind((hidden + (THREADS - 1) - thread) // THREADS)
            code.store(mine, code.number(0.0), 0)
            with code.serial(turns) as turn:
                value = code.bind(x[start + code.wide(turn * THREADS + thread)])
                code.store(mine, mine[0] + value * value, 0)
            code.store(squares, mine[0], thread)
            whole = code.reduce_block(squares, spare, thread, size=THREADS, largest_of=False)
            factor = code.inverse_root(whole / hidden.astype("float32") + code.number(epsilon))
            with code.serial(turns) as turn:
                column = code.bind(turn * THREADS + thread)
                value = x[start + code.wide(column)] * factor * weight[column]
                code.store(out, value, target + code.wide(column))


def rotate(
    made: dict[str, PrimFunc], name: str, *, heads: int, kv_heads: int, head_size: int, block: int,
    q_epsilon: float | None, k_epsilon: float | None,
) -> None:  # fmt: skip
    """Takes qkv [count, width], batch, norms' weights, out: q [count, q_width], K cache, V cache.

    Queries and keys are normalised per head, if an epsilon is given, then rotated by halves
    (https://arxiv.org/abs/2104.09864, in the order of Hugging Face). The grid is (heads + 2 · kv_heads) ×
    tokens.
    """
    with code.building(name, made) as kernel:
        qkv, batch = kernel.floats("qkv"), kernel.integers("batch")
        q_weight, k_weight = kernel.floats("q_weight"), kernel.floats("k_weight")
        q, keys, values = kernel.floats("q"), kernel.floats("keys"), kernel.floats("values")
        names = ("count", "capacity", "width", "q_width")
        count, capacity, width, q_width = (kernel.number(name) for name in names)
        with kernel.block(THREADS) as (slot, token, thread):
            half = head_size // 2
            source = code.bind(code.wide(token) * code.wide(width) + code.wide(slot * head_size))
            position, row = code.bind(batch[count + token]), code.bind(batch[count * 2 + token])
            head = code.shared(head_size)
            turns = code.bind((head_size + (THREADS - 1) - thread) // THREADS)
            with code.serial(turns) as turn:
                d = code.bind(turn * THREADS + thread)
                code.store(head, qkv[source + code.wide(d)], d)
            code.barrier()
            factor = code.local(1)
            code.store(factor, code.number(1.0), 0)
            for first, last, epsilon in ((0, heads, q_epsilon), (heads, heads + kv_heads, k_epsilon)):
                if epsilon is not None:
                    with code.when(code.both(slot >= first, slot < last)):
                        code.store(factor, code.number(0.0), 0)
                        with code.serial(head_size) as d:
                            code.store(factor, factor[0] + head[d] * head[d], 0)
                        mean = factor[0] / code.number(float(head_size))
                        code.store(factor, code.inverse_root(mean + code.number(epsilon)), 0)
            angles = code.bind(code.wide(count) * 4 + code.wide(token) * head_size)

            def rotated(d: Expr, weight: Buffer, epsilon: float | None) -> Expr:
                def element(at: Expr) -> Expr:
                    value = head[at]
                    return value if epsilon is None else value * factor[0] * weight[at]

                low = d % half
                cosine = code.as_float(batch[angles + code.wide(low)].astype("uint32"))
                sine = code.as_float(batch[angles + code.wide(low + half)].astype("uint32"))
                other = element((d + half) % head_size)
                turned = code.select(d < half, code.number(0.0) - other, other)
                return element(d) * cosine + turned * sine

            place = code.wide(row) * kv_heads
            with code.serial(turns) as turn:
                d = code.bind(turn * THREADS + thread)
                with code.when(slot < heads):
                    at = code.wide(token) * code.wide(q_width) + code.wide(slot * head_size + d)
                    code.store(q, rotated(d, q_weight, q_epsilon), at)
                with code.when(code.both(slot >= heads, slot < heads + kv_heads)):
                    at = (place + code.wide(slot - heads)) * code.wide(capacity) * head_size
                    within = position // block * (head_size * block) + d * block + position % block
                    code.store(keys, rotated(d, k_weight, k_epsilon), at + code.wide(within))
                with code.when(slot >= heads + kv_heads):
                    at = (place + code.wide(slot - heads - kv_heads)) * code.wide(capacity) * head_size
                    code.store(values, head[d], at + code.wide(position * head_size + d))
