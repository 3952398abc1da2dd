"""NEON kernels: integer products on Arm's Advanced SIMD, whose vectors have 128 bits.

All but `dot_quads` is plain TIR that LLVM matches to instructions of every Armv8 machine. Even and odd lanes
are multiplied apart, so that a product is one `smull` or `smlal`; LLVM takes a broadcast apart for nothing,
and weights once for all tokens of a block.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx

Expr = Any
"""A TIR expression; TVM ships no types."""


def dot_pairs(sums: Expr, left: Expr, right: Expr) -> Expr:
    """The sums (4 of 32 bits) plus left · right (8 of 16 bits each), added in pairs."""
    for first in (0, 1):
        sums = sums + _every_other(left, first, "int32x4") * _every_other(right, first, "int32x4")
    return sums


def dot_quads(sums: Expr, codes: Expr, inputs: Expr) -> Expr:
    """The sums (4 of 32 bits) plus codes · inputs (16 signed bytes each), added in fours; needs `asimddp`."""
    signed = tirx.reinterpret("int8x16", codes)
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.sdot.v4i32.v16i8", sums, signed, inputs)


def multiply_bytes(codes: Expr, inputs: Expr) -> Expr:
    """Codes · inputs (16 signed bytes each), added in pairs to 8 of 16 bits."""
    signed = tirx.reinterpret("int8x16", codes)
    products = [_every_other(signed, i, "int16x8") * _every_other(inputs, i, "int16x8") for i in (0, 1)]
    return products[0] + products[1]


def add_pairs(values: Expr) -> Expr:
    """Pairs of 8 values of 16 bits, as 4 of 32."""
    return tirx.call_llvm_pure_intrin("int32x4", "llvm.aarch64.neon.saddlp.v4i32.v8i16", values)


def _every_other(vector: Expr, first: int, kind: str) -> Expr:
    """Lanes first, first + 2 …, widened to a type."""
    count = int(kind.rpartition("x")[2])
    lanes = [tirx.const(first + 2 * lane, "int32") for lane in range(count)]
    return tirx.Shuffle([vector], lanes).astype(kind)
