"""Speed: how fast a session reads a prompt and writes tokens, and what the machine's memory could give.

Decoding one sequence reads all weights and the KV cache for every token, so memory bandwidth bounds it;
reading a prompt is bound by arithmetic. Both rates are medians of several repeats after one that does not
count. Memory bandwidth and arithmetic of a processor are measured beside them, in a process of its own with
as many threads (`python -m compilers.check.speed THREADS`), because a processor's data sheet does not
say what a shared or virtual machine gives.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
from pydantic import Field

from compilers.runtime import Segment, Session
from registry.errors import LoadError
from registry.value import Value

ARRAY_BYTES: Final = 192 << 20
"""Read by each thread; several times the caches of today's processors per core."""
MATRIX: Final = 1024
"""Side of the square matrices that arithmetic is measured on."""
MACHINE_REPEATS: Final = 25
MACHINE_TIMEOUT_S: Final = 120.0


class MachinePeaks(Value):
    """What a processor gives at best, measured."""

    memory_bandwidth_gb_per_s: float = Field(gt=0)
    """Reads of arrays larger than the caches, all threads together."""
    flops_per_s: float = Field(gt=0)
    """Products of float32 matrices, all threads together."""


class Speed(Value):
    """Throughput of one sequence."""

    prompt_tokens: int = Field(ge=1)
    """Tokens of the prompt that was read at once."""
    prefill_tokens_per_s: float = Field(gt=0)
    context: int = Field(ge=1)
    """Tokens in the cache in the middle of the decoding that was timed."""
    decode_steps: int = Field(ge=1)
    """Tokens written one by one in each repeat."""
    decode_tokens_per_s: float = Field(gt=0)
    repeats: int = Field(ge=1)
    """The rates are medians over so many."""
    threads: int = Field(ge=1)
    """Of the runtime."""
    machine: MachinePeaks | None = None
    """Measured beside it, for processors; None for accelerators, whose data sheets hold."""


def measure_speed(
    session: Session,
    *,
    prompt_tokens: int,
    decode_steps: int,
    repeats: int,
    threads: int,
    machine: MachinePeaks | None = None,
) -> Speed:
    """How fast a session reads and writes one sequence; cut to what its context holds.

    Args:
        session: The loaded artifact.
        prompt_tokens: Tokens of the prompt.
        decode_steps: Tokens to write after it.
        repeats: Timed repeats; one more comes before them and is not counted.
        threads: What the session was loaded with.
        machine: From `measure_machine`, for processors.

    Raises:
        LoadError: The session holds no two tokens.
    """
    if session.max_context < 2:
        raise LoadError("a context of fewer than 2 tokens cannot be timed", hint="leave out the speed")
    steps = min(decode_steps, max(1, session.max_context // 2))
    prompt = min(prompt_tokens, session.max_context - steps)
    tokens = [int(token) for token in np.random.default_rng(0).integers(0, session.vocab_size, prompt)]
    cache = session.new_cache(rows=1, capacity=prompt + steps)

    def prefill() -> None:
        cache.truncate(0, length=0)
        session.forward(cache, [Segment(0, tokens)])

    def decode() -> None:
        cache.truncate(0, length=prompt)
        for step in range(steps):
            session.forward(cache, [Segment(0, [tokens[step % prompt]])])

    prefill_s, decode_s = [], []
    for repeat in range(repeats + 1):
        times = _seconds(prefill), _seconds(decode)
        if repeat:
            prefill_s.append(times[0])
            decode_s.append(times[1])
    return Speed(
        prompt_tokens=prompt,
        prefill_tokens_per_s=prompt / statistics.median(prefill_s),
        context=prompt + max(1, steps // 2),
        decode_steps=steps,
        decode_tokens_per_s=steps / statistics.median(decode_s),
        repeats=repeats,
        threads=threads,
        machine=machine,
    )


def measure_machine(*, threads: int) -> MachinePeaks | None:
    """What this machine's processor gives with this many threads; None where it cannot be measured."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
    try:
        done = subprocess.run(
            [sys.executable, "-m", "compilers.check.speed", str(threads)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **dict.fromkeys(names, str(threads))},
            capture_output=True, text=True, timeout=MACHINE_TIMEOUT_S, check=True,
        )  # fmt: skip
        return MachinePeaks.model_validate_json(done.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _seconds(action: Callable[[], None]) -> float:
    start = time.perf_counter()
    action()
    return max(time.perf_counter() - start, 1e-9)


def _measure_here(threads: int) -> dict[str, float]:
    arrays = [np.ones(ARRAY_BYTES // 4, dtype=np.float32) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        # The largest element: NumPy does it with vector instructions and without its lock.

        def read() -> None:
            for _ in pool.map(np.max, arrays):
                pass

        reading = min(_seconds(read) for _ in range(MACHINE_REPEATS))
    matrix = np.ones((MATRIX, MATRIX), dtype=np.float32)
    product = np.empty_like(matrix)

    def multiply() -> None:
        np.matmul(matrix, matrix, out=product)

    multiplying = min(_seconds(multiply) for _ in range(MACHINE_REPEATS))
    return {
        "memory_bandwidth_gb_per_s": threads * ARRAY_BYTES / reading / 1e9,
        "flops_per_s": 2 * MATRIX**3 / multiplying,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_measure_here(int(sys.argv[1]))))
