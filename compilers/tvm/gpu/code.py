"""A thin wrapper around TVM's TIR builder for GPU kernels: one block of threads, explicit loops and vectors.

Loops of Python unroll; loops of `serial` stay loops. Arithmetic that vendors' libraries do differently
(exponential, square root, half precision) is written out in integer and float operations, so that every
target computes the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as tir

Expr = Any
"""A TIR expression or a Python number; TVM ships no types."""
Buffer = Any
"""A TIR buffer."""
PrimFunc = Any
"""A TIR function."""
Frame = Any
"""A loop of the builder, as a context."""

_CODE_BASE = 0x4B000000
"""Bits of 2²³ as float32: with a small integer in the low bits it is 2²³ plus that integer."""


class GpuKernel:
    """One GPU kernel under construction; arguments first, then one `block`."""

    def words(self, name: str) -> Buffer:
        """An argument: 32-bit words in rows of four, 16 bytes that one load takes."""
        return self._buffer(name, (4,), "uint32")

    def quads(self, name: str) -> Buffer:
        """An argument: float32 in rows of four."""
        return self._buffer(name, (4,), "float32")

    def floats(self, name: str) -> Buffer:
        """An argument: float32, flat."""
        return self._buffer(name, (), "float32")

    def flat_words(self, name: str) -> Buffer:
        """An argument: 32-bit words, flat."""
        return self._buffer(name, (), "uint32")

    def integers(self, name: str) -> Buffer:
        """An argument: int32, flat."""
        return self._buffer(name, (), "int32")

    def number(self, name: str) -> Expr:
        """An argument: an int32."""
        return tir.arg(name, tirx.Var(name, "int32"))

    @contextmanager
    def block(self, threads: int) -> Iterator[tuple[Expr, Expr, Expr]]:
        """The body: indices of the block in x and y, and of the thread in its block.

        The grid's extents are two more arguments, `grid_x` and `grid_y`.
        """
        extents = [self.number(name) for name in ("grid_x", "grid_y")]
        with (
            tir.launch_thread("blockIdx.x", extents[0]) as x,
            tir.launch_thread("blockIdx.y", extents[1]) as y,
            tir.launch_thread("threadIdx.x", threads) as thread,
        ):
            yield x, y, thread

    def _buffer(self, name: str, tail: Sequence[int], dtype: str) -> Buffer:
        extent = tirx.Var(f"{name}_extent", "int64")
        return tir.arg(name, tir.buffer((extent, *tail), dtype, layout=None))


@contextmanager
def building(name: str, made: dict[str, PrimFunc]) -> Iterator[GpuKernel]:
    """Build a kernel in the body of a `with`; it is put into `made` under its name."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(name)
        tir.func_attr({"global_symbol": name, "tirx.noalias": True})
        yield GpuKernel()
    made[name] = builder.get()


def serial(extent: Expr) -> Frame:
    """A loop from 0, as a context that gives its variable."""
    return tir.serial(0, extent)


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements under a condition."""
    with tir.If(condition), tir.Then():
        yield


def barrier() -> None:
    """All threads of the block arrive before any goes on, and see each other's shared memory."""
    tir.evaluate(tir.tvm_storage_sync("shared"))


def bind(value: Expr) -> Expr:
    """Compute once, name it."""
    return tir.Bind(value)


def shared(*shape: int) -> Buffer:
    """float32 memory that the threads of a block share."""
    return tir.alloc_buffer(shape, "float32", scope="shared", layout=None)


def local(size: int) -> Buffer:
    """float32 memory of one thread; constant indices keep it in registers."""
    return tir.alloc_buffer((size,), "float32", scope="local", layout=None)


def store(buffer: Buffer, value: Expr, *index: Expr) -> None:
    """One element."""
    tir.buffer_store(buffer, value, list(index))


def quad(buffer: Buffer, *index: Expr, start: int = 0, lanes: int = 4) -> list[Expr]:
    """The elements of the last dimension from `start` on, by one load.

    Offsets are 64 bits wide: matrices and caches may have more than 2³¹ elements.
    """
    ramp = tirx.Ramp(tirx.const(start, "int64"), tirx.const(1, "int64"), lanes)
    loaded = bind(buffer[(*index, ramp)])
    return [tirx.Shuffle([loaded], [lane]) for lane in range(lanes)]


def wide(value: Expr) -> Expr:
    """As int64, for offsets."""
    return tirx.const(value, "int64") if isinstance(value, int) else value.astype("int64")


def number(value: float) -> Expr:
    """A float32 constant."""
    return tirx.const(value, "float32")


def word(value: int) -> Expr:
    """A 32-bit constant."""
    return tirx.const(value, "uint32")


def least(left: Expr, right: Expr) -> Expr:
    """The smaller of two."""
    return tirx.Min(left, right)


def largest(left: Expr, right: Expr) -> Expr:
    """The larger of two."""
    return tirx.Max(left, right)


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """One of two values; both are computed."""
    return tirx.Select(condition, yes, no)


def either(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """One of two values; only that one is computed."""
    return tirx.if_then_else(condition, yes, no)


def both(left: Expr, right: Expr) -> Expr:
    """Whether both hold."""
    return tirx.And(left, right)


def as_float(bits: Expr) -> Expr:
    """The float32 of these bits."""
    return tirx.reinterpret("float32", bits)


def total(values: Sequence[Expr]) -> Expr:
    """The sum, left to right."""
    result = values[0]
    for value in values[1:]:
        result = result + value
    return result


def halves(pair: Expr) -> list[Expr]:
    """Both float16 of a word as float32, exactly; the lower half first.

    Exponent and fraction are moved to float32's places, which is the value · 2⁻¹¹², also where it is
    subnormal. Infinities and NaN, which no checkpoint has, would become finite.
    """
    low = (pair & word(0x7FFF)) << word(13) | (pair & word(0x8000)) << word(16)
    high = (pair >> word(3)) & word(0x0FFFE000) | pair & word(0x80000000)
    return [as_float(bits) * number(2.0**112) for bits in (low, high)]


def nibbles(eight: Expr) -> list[Expr]:
    """The eight 4-bit codes of a word, less 8, as float32; the lowest bits first."""
    return [
        as_float((eight >> word(4 * index)) & word(15) | word(_CODE_BASE)) - number(2.0**23 + 8)
        for index in range(8)
    ]


def octets(four: Expr) -> list[Expr]:
    """The four 8-bit codes of a word, less 128, as float32; the lowest bits first."""
    return [
        as_float((four >> word(8 * index)) & word(255) | word(_CODE_BASE)) - number(2.0**23 + 128)
        for index in range(4)
    ]


def exponential(value: Expr) -> Expr:
    """E to the power of a number, within 2 ulp; arguments are clamped to [-87, 88].

    Range reduction and polynomial are those of Cephes' `expf` (https://www.netlib.org/cephes/), with ln 2
    split elsewhere: OpenCL C is written with seven digits, which the first part must have.
    """
    x = bind(least(largest(value, number(-87.0)), number(88.0)))
    # Rounded to the nearest integer by cutting a positive number; adding and subtracting a large one instead
    # would be taken out by TVM's simplifier.
    whole = bind((x * number(1.44269504088896341) + number(128.5)).astype("int32") - 128)
    turns = whole.astype("float32")
    # ln 2 in two parts: the first, times a small integer, is exact.
    rest = bind(x - turns * number(0.6875) - turns * number(5.647180559945e-3))
    series = number(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        series = series * rest + number(coefficient)
    power = tirx.reinterpret("float32", (whole + 127) << 23)
    return bind((series * (rest * rest) + rest + number(1.0)) * power)


def inverse_root(value: Expr) -> Expr:
    """One over the square root of a positive number, within 2 ulp: four of Newton's steps."""
    given = bind(value)
    start = tirx.const(0x5F3759DF, "int32") - (tirx.reinterpret("int32", given) >> 1)
    guess = bind(tirx.reinterpret("float32", start))
    for _ in range(4):
        guess = bind(guess * (number(1.5) - number(0.5) * given * guess * guess))
    return guess


def reduce_block(memory: Buffer, spare: Buffer, thread: Expr, *, size: int, largest_of: bool) -> Expr:
    """All `size` (a multiple of 16) elements of shared memory joined, in every thread.

    Two barriers; `spare` is shared memory of 16 elements. Behind it, `memory` may be written after one
    more barrier.
    """
    each = size // 16
    join = largest if largest_of else lambda left, right: left + right
    barrier()
    with when(thread < 16):
        mine = local(1)
        store(mine, memory[thread * each], 0)
        with serial(each - 1) as index:
            store(mine, join(mine[0], memory[thread * each + index + 1]), 0)
        store(spare, mine[0], thread)
    barrier()
    result = spare[0]
    for index in range(1, 16):
        result = join(result, spare[index])
    return bind(result)
