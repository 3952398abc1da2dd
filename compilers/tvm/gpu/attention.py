"""Attention: one block of threads for each token and head, in one pass over the row's keys.

Softmax is computed online over chunks of `CHUNK` positions (https://arxiv.org/abs/1805.02867), which start
at multiples of it: so a token's result does not depend on what else is in the batch. Scores: a thread for
each position; K lies transposed in blocks of `BLOCK` positions, so that neighbouring threads read
neighbouring words. The weighted sum of V: a thread for each element of the head, positions split over
groups of threads.
"""

from __future__ import annotations

from compilers.tvm.gpu import code
from compilers.tvm.gpu.code import PrimFunc
from compilers.tvm.gpu.plan import BLOCK, CHUNK

UNSEEN = -1e30


def attention(made: dict[str, PrimFunc], name: str, *, heads: int, kv_heads: int, head_size: int) -> None:
    """Takes q [count, q_width], batch, K cache, V cache, out [count, out_width], count, capacity, window.

    K cache: [rows, kv_heads, capacity / BLOCK, head_size, BLOCK]; V: [rows, kv_heads, capacity, head_size].
    `window` is how many keys a query sees, itself included. The grid is heads × tokens.
    """
    with code.building(name, made) as kernel:
        q, batch = kernel.floats("q"), kernel.integers("batch")
        keys, values, out = kernel.floats("keys"), kernel.floats("values"), kernel.floats("out")
        count, capacity, window = (kernel.number(name) for name in ("count", "capacity", "window"))
        q_width, out_width = kernel.number("q_width"), kernel.number("out_width")
        with kernel.block(CHUNK) as (head, token, thread):
            position = code.bind(batch[count + token])
            row = code.bind(batch[count * 2 + token])
            first = code.bind(code.largest(position - window + 1, 0))
            place = code.wide(row) * kv_heads + code.wide(head // (heads // kv_heads))
            base = code.bind(place * code.wide(capacity) * head_size)
            query, scores, spare = code.shared(head_size), code.shared(CHUNK), code.shared(16)
            across = -(-head_size // CHUNK)
            groups = max(1, CHUNK // head_size)
            element, group = code.bind(thread % head_size), code.bind(thread // head_size)
            peak, norm, sums = code.local(1), code.local(1), code.local(across)
            code.store(peak, code.number(UNSEEN), 0)
            code.store(norm, code.number(0.0), 0)
            for part in range(across):
                code.store(sums, code.number(0.0), part)
                with code.when(thread + part * CHUNK < head_size):
                    at = code.wide(token) * code.wide(q_width) + code.wide(head * head_size + thread)
                    code.store(
                        query, q[at + part * CHUNK] * code.number(head_size**-0.5), thread + part * CHUNK
                    )
            code.barrier()
            with code.serial(position // CHUNK + 1 - first // CHUNK) as turn:
                chunk = code.bind((first // CHUNK + turn) * CHUNK)
                key = code.bind(chunk + thread)
                start = code.bind(base + code.wide(key // BLOCK * (head_size * BLOCK) + key % BLOCK))
                score = code.local(1)
                code.store(score, code.number(0.0), 0)
                with code.serial(head_size) as d:
                    code.store(score, score[0] + query[d] * keys[start + code.wide(d * BLOCK)], 0)
                seen = code.both(key <= position, key >= first)
                code.store(scores, code.select(seen, score[0], code.number(UNSEEN)), thread)
                limit = code.reduce_block(scores, spare, thread, size=CHUNK, largest_of=True)
                highest = code.bind(code.largest(peak[0], limit))
                shrink = code.bind(code.exponential(peak[0] - highest))
                code.store(peak, highest, 0)
                weight = code.exponential(scores[thread] - highest)
                code.store(scores, code.select(seen, weight, code.number(0.0)), thread)
                more = code.reduce_block(scores, spare, thread, size=CHUNK, largest_of=False)
                code.store(norm, norm[0] * shrink + more, 0)
                low = code.bind(code.largest(first - chunk, 0))
                end = code.bind(code.least(position + 1 - chunk, CHUNK))
                for part in range(across):
                    code.store(sums, sums[part] * shrink, part)
                    working = thread < groups * head_size
                    if groups == 1:
                        working = code.both(working, thread + part * CHUNK < head_size)
                    turns = (end - low + (groups - 1) - group) // groups
                    with code.when(working), code.serial(turns) as step:
                        p = code.bind(low + group + step * groups)
                        at = code.wide((chunk + p) * head_size + element + part * CHUNK)
                        code.store(sums, sums[part] + scores[p] * values[base + at], part)
                code.barrier()
            target = code.bind(code.wide(token) * code.wide(out_width) + code.wide(head * head_size))
            if groups == 1:
                for part in range(across):
                    with code.when(thread + part * CHUNK < head_size):
                        where = target + code.wide(thread + part * CHUNK)
                        code.store(out, sums[part] / norm[0], where)
                return
            code.store(scores, sums[0], thread)
            code.barrier()
            with code.when(thread < head_size):
                whole = code.total([scores[thread + head_size * other] for other in range(groups)])
                code.store(out, whole / norm[0], target + code.wide(thread))
