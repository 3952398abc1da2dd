"""The integer kernels alone, against NumPy: rounding of activations, packing, products of every shape."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from compilers.tvm.cpu.integer import IntegerForm
from compilers.tvm.cpu.linear import Product
from registry.target import find_target, missing_features
from tests.compilers.conftest import this_host

Array = NDArray[Any]
FORMS = {
    "w4g32": IntegerForm(4, 32),
    "w4g64": IntegerForm(4, 64),
    "w4g128": IntegerForm(4, 128),
    "w8g32": IntegerForm(8, 32),
    "w8a8": IntegerForm(8, None),
    "w4g32 in two parts": IntegerForm(4, 32, parts=2),
    "w4g128 in two parts": IntegerForm(4, 128, parts=2),
    "w8a8 in two parts": IntegerForm(8, None, parts=2),
}
TOKENS = (1, 2, 3, 5, 6, 7, 12, 29)
"""Alone, fewer than a block, a block, blocks with every kind of rest."""


@pytest.fixture(params=["cpu-x86-64-v3", "cpu-x86-64-v4", "cpu-x86-64-v4-vnni"])
def target(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if lacks := missing_features(this_host(), target=find_target(name)):
        pytest.skip(f"this host lacks {', '.join(lacks)}")
    return name


def aligned(values: Array) -> Array:
    from compilers.tvm.cpu.memory import aligned_zeros

    memory = aligned_zeros(values.shape, values.dtype)
    memory[...] = values
    return memory


def weights_of(form: IntegerForm, product: Product, draw: np.random.Generator) -> tuple[Array, Array, Array]:
    """Codes as the weights file has them, their values, and scales [rows, groups]; extreme codes included."""
    rows, columns, groups = product.rows, product.columns, form.groups(product.columns)
    low, high = (-8, 7) if form.bits == 4 else (-127, 127)
    values = draw.integers(low, high + 1, (rows, columns))
    values[0], values[1] = low, high
    scales = draw.uniform(0.5, 1.5, (rows, groups)).astype(np.float32)
    if form.group is None:
        return values.astype(np.int8), values, scales
    grouped = values.reshape(rows, groups, form.group)
    if form.bits == 8:
        return (grouped + 128).astype(np.uint8), values, scales
    codes = grouped + 8
    return (codes[..., ::2] | codes[..., 1::2] << 4).astype(np.uint8), values, scales


def rounded(x: Array, form: IntegerForm, limit: int) -> tuple[Array, Array]:
    """Integers of activations, as float64, and their scales, per group; of two parts, the sum in units."""
    grouped = x.reshape(len(x), form.groups(x.shape[1]), -1)
    peaks = np.abs(grouped).max(-1, keepdims=True)
    inverse = np.divide(np.float32(limit), peaks, out=np.zeros_like(peaks), where=peaks > 0)
    units = grouped * inverse
    codes = np.rint(units).astype(np.float64)
    if form.parts == 2:
        codes += np.rint((units - np.rint(units)) * np.float32(254)) / 254
    return codes, peaks[..., 0] / np.float32(limit)


def expected(x: Array, values: Array, scales: Array, form: IntegerForm, limit: int) -> Array:
    codes, x_scales = rounded(x, form, limit)
    grouped = values.reshape(len(values), *codes.shape[1:]).astype(np.float64)
    return np.einsum("ngi,rgi,ng,rg->nr", codes, grouped, x_scales, scales, optimize=True)


class Kernels:
    """The compiled kernels of one product, from the weights file's form to the output."""

    def __init__(self, form: IntegerForm, product: Product, target: str) -> None:
        import tvm

        from compilers.tvm.common.library import load_runtime
        from compilers.tvm.cpu import pack
        from compilers.tvm.cpu.avx2_int16_products import pair_product
        from compilers.tvm.cpu.integer import quantize
        from compilers.tvm.cpu.lower import TRIPLES, machine_of
        from compilers.tvm.cpu.vnni_int8_products import quad_product

        self.form, self.product = form, product
        self.machine = machine = machine_of(find_target(target))
        made: dict[str, Any] = {}
        tile, packing = form.tile(machine), form.packing(machine)
        make = quad_product if packing == "quads" else pair_product
        for single in (True, False):
            name = "one" if single else "many"
            make(made, name, product=product, form=form, machine=machine, single=single)
        columns = product.columns
        quantize(made, "quantize", columns=columns, width=product.input_width, form=form, machine=machine)
        if form.bits == 4:
            pack.pack_nibbles(made, "pack", tile=tile)
        else:
            together = 4 if packing == "quads" else 2
            grouped = form.group is not None
            pack.pack_bytes(
                made, "pack", grouped=grouped, tile=tile, together=together, zero=form.zero(machine)
            )
        pack.pack_float(made, "pack_scales", dtype="float32", tile=tile)
        llvm = tvm.target.Target(
            {"kind": "llvm", "mcpu": find_target(target).llvm_cpu, "mtriple": TRIPLES["x86_64"]}
        )
        with tvm.transform.PassContext(opt_level=3, config={"tirx.disable_storage_rewrite": True}):
            self.compiled = tvm.compile(tvm.IRModule(made), target=llvm)
        self.tensor = load_runtime().from_dlpack

    def call(self, name: str, *arrays: Array, place: tuple[int, ...] = ()) -> None:
        self.compiled[name](*map(self.tensor, arrays), *place)

    def packed(self, codes: Array, scales: Array) -> tuple[Array, Array]:
        shape, dtype = self.form.codes(self.product, self.machine)
        packed = aligned(np.zeros(shape, dtype))
        scaled = aligned(np.zeros(self.form.scales(self.product, self.machine), np.float32))
        self.call("pack", codes, packed, place=(0, 1, 1))
        self.call("pack_scales", scales, scaled, place=(0, 1, 1))
        return packed, scaled

    def quantized(self, x: Array) -> tuple[Array, Array, Array]:
        stored, dtype = self.form.inputs(self.product.columns, self.machine)
        groups = self.form.parts * self.form.groups(self.product.columns)
        shapes = [((len(x), stored), dtype), ((len(x), groups), "float32"), ((len(x), groups), "int32")]
        made = tuple(aligned(np.ones(shape, kind)) for shape, kind in shapes)
        self.call("quantize", aligned(x), *made)
        return made[0], made[1], made[2]


def inputs(count: int, columns: int, draw: np.random.Generator) -> Array:
    """Rows of different sizes, one of them zero, and some of the largest integers side by side."""
    x = draw.standard_normal((count, columns)).astype(np.float32)
    x *= draw.uniform(0.01, 30, (count, 1)).astype(np.float32)
    x[0, : columns // 2] = 7.5
    x[-1, columns // 2 :] = -1.25
    if count > 4:
        x[2] = 0
    return x


@pytest.mark.parametrize(
    ("form", "columns"),
    [
        ("w4g32", 160), ("w4g64", 192), ("w4g128", 128), ("w8g32", 96), ("w8a8", 160), ("w8a8", 99),
        ("w4g32 in two parts", 160), ("w4g128 in two parts", 128),
        ("w8a8 in two parts", 160), ("w8a8 in two parts", 99),
    ],
)  # fmt: skip
def test_products_are_the_sums_of_the_rounded_integers(form: str, columns: int, target: str) -> None:
    draw = np.random.default_rng(columns)
    product = Product(77, columns, columns, 128, "plain", bias=True)
    kernels = Kernels(FORMS[form], product, target)
    limit = FORMS[form].limit(kernels.machine)
    codes, values, scales = weights_of(FORMS[form], product, draw)
    packed = kernels.packed(codes, scales)
    bias = aligned(
        np.zeros(
            kernels.form.scales(product, kernels.machine)[0] * kernels.form.tile(kernels.machine), np.float32
        )
    )
    bias[:77] = draw.standard_normal(77)
    for count in TOKENS:
        x = inputs(count, columns, draw)
        y = aligned(np.zeros((count, 128), np.float32))
        kernels.call("one" if count == 1 else "many", *kernels.quantized(x), *packed, bias, y)
        wanted = expected(x, values, scales, FORMS[form], limit) + bias[:77]
        np.testing.assert_allclose(y[:, :77], wanted, rtol=2e-5, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("form", ["w4g32", "w8a8", "w4g32 in two parts", "w8a8 in two parts"])
def test_a_token_alone_has_the_result_that_it_has_among_others(form: str, target: str) -> None:
    draw = np.random.default_rng(1)
    product = Product(64, 96, 96, 64, "plain", bias=False)
    kernels = Kernels(FORMS[form], product, target)
    codes, _, scales = weights_of(FORMS[form], product, draw)
    packed = kernels.packed(codes, scales)
    x = inputs(13, 96, draw)
    together = aligned(np.zeros((13, 64), np.float32))
    kernels.call("many", *kernels.quantized(x), *packed, together)
    for token in range(13):
        alone = aligned(np.zeros((1, 64), np.float32))
        kernels.call("one", *kernels.quantized(x[token : token + 1]), *packed, alone)
        np.testing.assert_array_equal(alone[0], together[token])


def test_activations_are_rounded_to_the_nearest_integer_and_offset_by_the_zero(target: str) -> None:
    form, product = FORMS["w4g32"], Product(32, 64, 64, 64, "plain", bias=False)
    kernels = Kernels(form, product, target)
    x = inputs(6, 64, np.random.default_rng(3))
    codes, scales, offsets = kernels.quantized(x)
    wanted, wanted_scales = rounded(x, form, 127)
    np.testing.assert_array_equal(codes.reshape(wanted.shape), wanted)
    np.testing.assert_allclose(scales, wanted_scales, rtol=1e-6)
    np.testing.assert_array_equal(offsets, -8 * wanted.sum(-1))
