"""A thin wrapper around TVM's TIR builder: kernels as plain Python, explicit loops, explicit vectors.

Loops of Python unroll; loops of `serial` and `parallel` stay loops. Vectors are explicit, so that the
machine code has the shape that the kernel's author meant: LLVM keeps `Register`s in registers if their
indices are constants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as tir

from compilers.tvm.cpu import neon

Expr = Any
"""A TIR expression or a Python number; TVM ships no types."""
Buffer = Any
"""A TIR buffer."""
PrimFunc = Any
"""A TIR function."""
Frame = Any
"""A loop of the builder, as a context."""

CACHE_LINE_BYTES = 64
NEON_LANES = 4
"""float32 lanes on Arm; every x86 machine that kernels are written for has more."""


@dataclass(frozen=True, slots=True)
class VectorUnit:
    """What kernels must know of a target."""

    lanes: int
    """float32 lanes of a vector register."""
    registers: int
    """Vector registers."""
    has_vnni: bool
    """Whether dot products of 8-bit integers have an instruction (on Arm: `sdot`, of signed ones alone)."""


class Kernel:
    """One TIR function under construction."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._dimensions: dict[str, Expr] = {}

    def dimension(self, name: str) -> Expr:
        """A symbolic extent, bound by the first buffer that has it."""
        if name not in self._dimensions:
            # 64 bits: LLVM then knows that addresses do not wrap, and hoists their arithmetic.
            self._dimensions[name] = tirx.Var(name, "int64")
        return self._dimensions[name]

    def buffer(self, name: str, shape: Sequence[Expr], dtype: str = "float32", *, align: int = 64) -> Buffer:
        """A tensor argument; a string in `shape` is a symbolic extent."""
        extents = [self.dimension(s) if isinstance(s, str) else s for s in shape]
        return tir.arg(name, tir.buffer(extents, dtype, align=align, layout=None))

    def integer(self, name: str) -> Expr:
        """A scalar argument: int64, the virtual machine's only integer, as int32."""
        return tir.arg(name, tirx.Var(name, "int64")).astype("int32")


@contextmanager
def building(name: str, made: dict[str, PrimFunc]) -> Iterator[Kernel]:
    """Build a kernel in the body of a `with`; it is put into `made` under its name."""
    with IRBuilder() as builder, tir.prim_func(s_tir=True):
        tir.func_name(name)
        tir.func_attr({"global_symbol": name, "tirx.noalias": True})
        yield Kernel(name)
    made[name] = builder.get()


def serial(*extent: Expr) -> Frame:
    """A loop, as a context that gives its variable."""
    return tir.serial(*extent) if len(extent) > 1 else tir.serial(0, extent[0])


def spread(extent: Expr, body: Callable[[Expr], None], *, work: Expr, grain: int) -> None:
    """Run `body` for 0 … extent − 1, over the thread pool if `work` is at least `grain`."""
    if isinstance(work, int):
        with tir.parallel(0, extent) if work >= grain else tir.serial(0, extent) as index:
            body(index)
        return
    with tir.If(work >= grain):
        with tir.Then(), tir.parallel(0, extent) as index:
            body(index)
        with tir.Else(), tir.serial(0, extent) as index:
            body(index)


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements under a condition."""
    with tir.If(condition), tir.Then():
        yield


def bind(value: Expr) -> Expr:
    """Compute once, name it."""
    return tir.Bind(value)


def load(buffer: Buffer, *index: Expr, lanes: int) -> Expr:
    """A vector from the last dimension."""
    return buffer[(*index[:-1], tirx.Ramp(index[-1], 1, lanes))] if lanes > 1 else buffer[index]


def store(buffer: Buffer, value: Expr, *index: Expr, lanes: int) -> None:
    """A vector into the last dimension."""
    last = tirx.Ramp(index[-1], 1, lanes) if lanes > 1 else index[-1]
    tir.buffer_store(buffer, value, [*index[:-1], last])


def splat(value: Expr, lanes: int, dtype: str = "float32") -> Expr:
    """One value in all lanes."""
    if isinstance(value, int | float):
        value = tirx.const(value, dtype)
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def kind(dtype: str, lanes: int) -> str:
    """The name of a vector type."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def convert(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """Convert the elements of a vector."""
    return value.astype(kind(dtype, lanes))


class Register:
    """A variable vector that LLVM keeps in a register."""

    def __init__(self, lanes: int, dtype: str = "float32", *, value: Expr = 0) -> None:
        self.lanes = lanes
        self.dtype = dtype
        self.memory = local(lanes, dtype)
        self.set(splat(value, lanes, dtype) if isinstance(value, int | float) else value)

    def get(self) -> Expr:
        """The value."""
        return load(self.memory, 0, lanes=self.lanes)

    def set(self, value: Expr) -> None:
        """Replace the value."""
        store(self.memory, value, 0, lanes=self.lanes)

    def add(self, value: Expr) -> None:
        """Add to the value."""
        self.set(self.get() + value)

    def reduce(self, join: Callable[[Expr, Expr], Expr]) -> Expr:
        """All lanes joined in pairs."""
        parts = [self.memory[i] for i in range(self.lanes)]
        while len(parts) > 1:
            parts = [join(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
        return bind(parts[0])


def local(size: int, dtype: str = "float32") -> Buffer:
    """Scratch memory on the stack.

    The annotation keeps TVM from taking it from its workspace pool, where LLVM cannot promote it to
    registers; the pass `StorageRewrite` would lose it, so `lower.py` switches that off.
    """
    on_stack = {"disable_lower_builtin": True}
    return tir.alloc_buffer((size,), dtype, scope="local", layout=None, annotations=on_stack)


def workspace(size: int, dtype: str) -> Buffer:
    """Scratch memory of the running thread that starts at a cache line, as the stack's does not."""
    return tir.alloc_buffer((size,), dtype, scope="global", layout=None)


def nothing(extent: Expr) -> Expr:
    """Zero; of an extent that is only known at run time, so that LLVM does not know it either."""
    return 0 if isinstance(extent, int | tirx.IntImm) else bind(extent >> 40)


def largest(left: Expr, right: Expr) -> Expr:
    """The larger of two."""
    return tir.max(left, right)


def least(left: Expr, right: Expr) -> Expr:
    """The smaller of two."""
    return tir.min(left, right)


def total(left: Expr, right: Expr) -> Expr:
    """The sum of two."""
    return left + right


def select(condition: Expr, yes: Expr, no: Expr) -> Expr:
    """Per lane, one of two values."""
    return tirx.Select(condition, yes, no)


def both(left: Expr, right: Expr) -> Expr:
    """Per lane, whether both hold."""
    return tirx.And(left, right)


def iota(start: Expr, lanes: int) -> Expr:
    """The integers from `start` on."""
    return tirx.Ramp(start, 1, lanes)


def magnitude(value: Expr) -> Expr:
    """The absolute value."""
    return tirx.abs(value)


def nearest(value: Expr) -> Expr:
    """Rounded to the nearest integer, ties to even."""
    return tirx.nearbyint(value)


def reinterpret(value: Expr, dtype: str, lanes: int = 1) -> Expr:
    """The same bits as another type."""
    return tirx.reinterpret(kind(dtype, lanes), value)


def dot_pairs(sums: Expr, left: Expr, right: Expr, machine: VectorUnit) -> Expr:
    """The sums plus left · right, where each 32-bit lane of the sums belongs to a pair of 16-bit lanes."""
    if machine.lanes == NEON_LANES:
        return neon.dot_pairs(sums, left, right)
    result = kind("int32", machine.lanes)
    if machine.lanes == 16 and machine.has_vnni:
        return tirx.call_llvm_pure_intrin(result, "llvm.x86.avx512.vpdpwssd.512", sums, left, right)
    name = "llvm.x86.avx512.pmaddw.d.512" if machine.lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    return sums + tirx.call_llvm_pure_intrin(result, name, left, right)


def dot_quads(sums: Expr, codes: Expr, inputs: Expr, machine: VectorUnit) -> Expr:
    """The sums plus codes · inputs: four unsigned and four signed bytes to a 32-bit lane; needs VNNI.

    On Arm both are signed.
    """
    if machine.lanes == NEON_LANES:
        return neon.dot_quads(sums, codes, inputs)
    result = kind("int32", machine.lanes)
    return tirx.call_llvm_pure_intrin(result, "llvm.x86.avx512.vpdpbusd.512", sums, codes, inputs)


def multiply_bytes(codes: Expr, inputs: Expr, machine: VectorUnit) -> Expr:
    """Codes · inputs: two unsigned and two signed bytes to a 16-bit lane, which saturates."""
    if machine.lanes == NEON_LANES:
        return neon.multiply_bytes(codes, inputs)
    name = "llvm.x86.avx512.pmaddubs.w.512" if machine.lanes == 16 else "llvm.x86.avx2.pmadd.ub.sw"
    return tirx.call_llvm_pure_intrin(kind("int16", 2 * machine.lanes), name, codes, inputs)


def add_pairs(values: Expr, machine: VectorUnit) -> Expr:
    """32-bit sums of pairs of 16-bit lanes."""
    if machine.lanes == NEON_LANES:
        return neon.add_pairs(values)
    name = "llvm.x86.avx512.pmaddw.d.512" if machine.lanes == 16 else "llvm.x86.avx2.pmadd.wd"
    ones = splat(1, 2 * machine.lanes, "int16")
    return tirx.call_llvm_pure_intrin(kind("int32", machine.lanes), name, values, ones)


def exponential(value: Expr, lanes: int) -> Expr:
    """E to the power of each lane, within 2 ulp; arguments are clamped to [-87, 88].

    Range reduction and polynomial of Cephes' `expf` (https://www.netlib.org/cephes/): a vector of libm calls
    would be computed lane by lane.
    """

    def constant(number: float) -> Expr:
        return splat(number, lanes)

    x = bind(tirx.Min(tirx.Max(value, constant(-87.0)), constant(88.0)))
    whole = bind(tirx.floor(x * constant(1.44269504088896341) + constant(0.5)))
    rest = bind(x - whole * constant(0.693359375) - whole * constant(-2.12194440e-4))
    series = constant(1.9875691500e-4)
    for coefficient in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        series = series * rest + constant(coefficient)
    fraction = series * (rest * rest) + rest + constant(1.0)
    exponent = convert(whole, "int32", lanes) + splat(127, lanes, "int32")
    power = tirx.reinterpret(kind("float32", lanes), exponent << splat(23, lanes, "int32"))
    return bind(fraction * power)


def ceil_to(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def root(value: Expr) -> Expr:
    """The square root."""
    return tirx.sqrt(value)


def cosine(value: Expr) -> Expr:
    """The C library's cosine of a scalar."""
    return tirx.call_pure_extern("float32", "cosf", value)


def sine(value: Expr) -> Expr:
    """The C library's sine of a scalar."""
    return tirx.call_pure_extern("float32", "sinf", value)


def up(value: Expr, divisor: int) -> Expr:
    """The quotient, rounded up."""
    return (value + (divisor - 1)) // divisor
