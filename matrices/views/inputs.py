"""How the products of a cell take their inputs: in float, or rounded to integers, and to how many bits."""

from __future__ import annotations

from compilers.backend import find_backend
from compilers.check.bounds import IntegerProducts
from matrices.cells.cell import Cell
from registry.errors import UnknownNameError
from registry.recipe import parse_recipe
from registry.weight_form import CodedWeights


def inputs_in_words(cell: Cell) -> str | None:
    """What is rounded in products with integer weights; None if weights are floats, or nothing is built."""
    form = parse_recipe(cell.recipe).forms[0]
    if cell.variant is None or not isinstance(form, CodedWeights):
        return None
    if form.activations == "int16-static":
        return "rounded to 16 bits, in ranges from a calibration set"
    bits = _bits(cell.toolchain, form)
    if bits is None:
        return "not rounded"
    share = "token" if form.group_size is None else f"group of {form.group_size}"
    words = f"rounded to {bits} bits per {share}"
    if bits == 8 and cell.variant.wide_inputs:
        words += f", but for {wide_in_words(cell.variant.wide_inputs)}"
    return words


def wide_in_words(names: tuple[str, ...]) -> str:
    """The matrices whose inputs have outliers: their number and kinds, and how they are kept."""
    kinds = ", ".join(sorted({name.removesuffix(".weight").rpartition(".")[2] for name in names}))
    return f"those of {len(names)} matrices ({kinds}), which have outliers and keep 15 bits or more"


def _bits(toolchain: str, form: CodedWeights) -> int | None:
    """To which a toolchain rounds, as it declares; None: not at all."""
    try:
        arithmetic = find_backend(toolchain).arithmetic(form)
    except UnknownNameError:  # of a package that is not installed here
        arithmetic = None
    if isinstance(arithmetic, IntegerProducts):
        return arithmetic.activation_bits
    return 8 if form.activations == "int8-dynamic" else None
