"""Weights on the node: the tensors of the canonical weights file, mapped into memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.model.weights import NUMPY_TYPES, read_layout
from compilers.tvm.common.forms import TensorForm, forms_of
from registry.errors import CorruptError, LoadError

AnyArray = NDArray[Any]  # Any: one of NUMPY_TYPES


class MappedWeights(dict[str, AnyArray]):
    """Tensors of a weights file, by name, in memory that is the file's."""

    def __init__(self, tensors: Mapping[str, AnyArray], mapping: mmap.mmap) -> None:
        super().__init__(tensors)
        self._mapping = mapping

    def forget_pages(self) -> None:
        """Let go of the pages that were read so far; they are read from the file again when they are used."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)


def open_weights(path: Path, expected: Mapping[str, TensorForm]) -> MappedWeights:
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
    with path.open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
    data: AnyArray = np.frombuffer(mapping, np.uint8)
    tensors = {
        name: data[tensor.offset : tensor.offset + tensor.size_bytes]
        .view(NUMPY_TYPES[tensor.dtype])
        .reshape(tensor.shape)
        for name, tensor in layout.tensors.items()
        if name in expected
    }
    return MappedWeights(tensors, mapping)
