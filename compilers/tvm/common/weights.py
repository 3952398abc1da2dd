"""Weights on the node: the tensors of the canonical weights file, mapped into memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.model.weights import NUMPY_TYPES, read_layout
from compilers.tvm.common.forms import TensorForm, forms_of
from registry.errors import CorruptError, LoadError

AnyArray = NDArray[Any]  # Any: one of NUMPY_TYPES


def open_weights(path: Path, expected: Mapping[str, TensorForm]) -> dict[str, AnyArray]:
    """The tensors of a weights file that compiled code takes.

    Args:
        path: The file.
        expected: Tensors that the code was compiled for, as its plan lists them.

    Raises:
        LoadError: The file has other tensors, or is damaged.
    """
    try:
        layout = read_layout(path)
    except CorruptError as error:
        raise LoadError(error.message, hint="pull or build the artifact again") from error
    forms = forms_of(layout)
    for name, form in expected.items():
        if name not in forms:
            raise LoadError(
                f"`{path}` has no tensor `{name}`", hint="weights and library do not belong together"
            )
        found = forms[name]
        if found != form:
            raise LoadError(
                f"`{path}`: `{name}` is {found.dtype} {list(found.shape)}, the library was compiled for "
                f"{form.dtype} {list(form.shape)}",
                hint="weights and library do not belong together",
            )
    # Copy on write: tensors must be writable to be passed on, and nobody writes them.
    data: AnyArray = np.memmap(path, np.uint8, mode="c")
    return {
        name: data[tensor.offset : tensor.offset + tensor.size_bytes]
        .view(NUMPY_TYPES[tensor.dtype])
        .reshape(tensor.shape)
        for name, tensor in layout.tensors.items()
        if name in expected
    }
