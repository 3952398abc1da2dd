"""Kernels by the names that a plan gives them: the table from a `KernelForm` to TIR."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

from compilers.tvm.gpu import elementwise, product
from compilers.tvm.gpu.attention import attention
from compilers.tvm.gpu.code import PrimFunc
from compilers.tvm.gpu.plan import BLOCK, CHUNK, KernelForm
from registry.errors import BuildError

Options = Mapping[str, Any]
"""A kernel form's options; each template knows the types of its own."""
Template = Callable[[dict[str, PrimFunc], str, Options], None]


def _rows_product(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    form = product.Form(options["weights"], options["group"])
    product.rows_product(made, name, form=form, mode=options["mode"], tokens=options["tokens"])


def _tile_product(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    form = product.Form(options["weights"], options["group"])
    product.tile_product(made, name, form=form, mode=options["mode"])


def _attention(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    attention(made, name, **options)


def _embed(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    elementwise.embed(made, name, **options)


def _embed_codes(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    elementwise.embed_codes(made, name, form=product.Form(options["weights"], options["group"]))


def _rms_norm(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    elementwise.rms_norm(made, name, **options)


def _rotate(made: dict[str, PrimFunc], name: str, options: Options) -> None:
    elementwise.rotate(made, name, block=BLOCK, **options)


TEMPLATES: Mapping[str, Template] = {
    "rows_product": _rows_product,
    "tile_product": _tile_product,
    "attention": _attention,
    "embed": _embed,
    "embed_codes": _embed_codes,
    "rms_norm": _rms_norm,
    "rotate": _rotate,
}
THREADS: Mapping[str, int] = {
    "rows_product": product.ROWS_THREADS,
    "tile_product": product.TILE_THREADS,
    "attention": CHUNK,
    "embed": elementwise.THREADS,
    "embed_codes": elementwise.THREADS,
    "rms_norm": elementwise.THREADS,
    "rotate": elementwise.THREADS,
}


def make_kernel(name: str, form: KernelForm) -> PrimFunc:
    """The kernel of a form.

    Raises:
        BuildError: There is no such template, or it has other options.
    """
    made: dict[str, PrimFunc] = {}
    try:
        TEMPLATES[form.template](made, name, form.options)
    except (KeyError, TypeError) as error:
        raise BuildError(
            f"the kernel `{name}` needs the unknown template `{form.template}`: {error}",
            hint="build the artifact again",
        ) from error
    return made[name]


def kernel_digest(kernel: PrimFunc) -> str:
    """SHA-256 of a kernel's TIR as text."""
    return hashlib.sha256(kernel.script().encode()).hexdigest()
