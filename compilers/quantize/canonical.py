"""The canonical weights file: written tensor by tensor, and read back as the floats that it stands for.

Writing keeps one tensor in memory. The file appears under its name only when it is whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from compilers.model.weights import NUMPY_TYPES, Layout, StoredTensor
from compilers.quantize.coded import Coded
from registry.atomic import flush, storage_errors, sweep, sync_directory, temporary_file
from registry.errors import BuildError, CorruptError
from registry.recipe import Recipe
from registry.weight_form import CodedWeights


class WeightsWriter:
    """Puts tensors at their places in a weights file; made by `write_weights`."""

    def __init__(self, stream: IO[bytes], layout: Layout) -> None:
        self._stream = stream
        self._layout = layout
        self._missing = set(layout.tensors)

    def put(self, name: str, value: NDArray[np.generic]) -> None:
        """Write one tensor, whose type and shape must be those of the layout."""
        tensor = self._layout.tensors[name]
        if value.shape != tensor.shape or value.dtype != NUMPY_TYPES[tensor.dtype]:
            raise BuildError(
                f"`{name}` is {value.dtype}{list(value.shape)}, "
                f"the layout says {tensor.dtype}{list(tensor.shape)}",
                hint="this is a defect of the quantizer; please report it",
            )
        self._stream.seek(tensor.offset)
        self._stream.write(np.ascontiguousarray(value).data)
        self._missing.remove(name)

    def put_coded(self, name: str, coded: Coded, form: CodedWeights) -> None:
        """Write a quantized matrix as codes and scales."""
        codes, scales = pack(coded, form)
        self.put(f"{name}.codes", codes)
        self.put(f"{name}.scales", scales)

    def finish(self) -> None:
        """Check that every tensor was written."""
        if self._missing:
            raise BuildError(
                f"`{min(self._missing)}` was not written, one of {len(self._missing)}",
                hint="this is a defect of the quantizer; please report it",
            )


@contextmanager
def write_weights(path: Path, layout: Layout) -> Iterator[WeightsWriter]:
    """A writer of the file `path`, which appears when the block ends without error.

    Raises:
        StorageFullError: No space was left; nothing stays.
    """
    with storage_errors(path):
        sweep(path.parent, name=path.name)
        with temporary_file(path.parent, name=path.name) as (stream, temporary):
            stream.write(layout.header)
            writer = WeightsWriter(stream, layout)
            yield writer
            writer.finish()
            flush(stream)
            temporary.replace(path)
            sync_directory(path.parent)


def pack(coded: Coded, form: CodedWeights) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """Codes and scales in their stored form."""
    scales = coded.scales.numpy().astype(np.float32)
    if form.group_size is None:
        return coded.codes.numpy().astype(np.int8), scales[:, 0]
    rows, columns = coded.codes.shape
    codes = (coded.codes.numpy() + form.zero).astype(np.uint8).reshape(rows, columns // form.group_size, -1)
    if form.codes_per_byte == 1:
        return codes, scales
    return codes[:, :, 0::2] | (codes[:, :, 1::2] << 4), scales


def unpack(
    codes: NDArray[np.generic], scales: NDArray[np.float32], form: CodedWeights
) -> NDArray[np.float32]:
    """The float32 matrix [out, in] that stored codes and scales stand for."""
    if form.group_size is None:
        return codes.astype(np.float32) * scales[:, None]
    rows = codes.shape[0]
    if form.codes_per_byte == 2:
        packed = codes.astype(np.uint8)
        codes = np.stack([packed & 15, packed >> 4], axis=-1).reshape(rows, codes.shape[1], -1)
    return ((codes.astype(np.float32) - np.float32(form.zero)) * scales[:, :, None]).reshape(rows, -1)


def dequantized_state(weights: Path, recipe: Recipe) -> dict[str, NDArray[np.float32]]:
    """The float32 state dict that a variant's weights file stands for.

    A tied output matrix appears as `lm_head.weight` where it is stored apart, because it then differs from
    the embedding. Ranges of static activations appear under their own names.

    Raises:
        CorruptError: The file is no safetensors file, or codes without scales are in it.
    """
    state: dict[str, NDArray[np.float32]] = {}
    try:
        with safe_open(weights, framework="np") as file:
            names = set(file.keys())
            for name in sorted(names):
                stem, _, part = name.rpartition(".")
                form = recipe.form(stem)
                if part == "codes" and isinstance(form, CodedWeights):
                    scales = file.get_tensor(f"{stem}.scales")
                    state[stem] = unpack(file.get_tensor(name), scales, form)
                elif part != "scales":
                    state[name] = file.get_tensor(name).astype(np.float32)
    except (SafetensorError, OSError) as error:
        raise CorruptError(
            f"`{weights}` is not the weights file of a variant: {error}", hint="build the variant again"
        ) from error
    return state


def to_stored(value: torch.Tensor, tensor: StoredTensor, *, name: str) -> NDArray[np.generic]:
    """A float32 tensor in the type in which the layout stores it.

    Raises:
        BuildError: float16 cannot hold one of its values.
    """
    if tensor.dtype != "F16":
        return np.asarray(value.numpy())
    half = value.to(torch.float16)
    if not bool(torch.isfinite(half).all()):
        raise BuildError(
            f"`{name}` has a value of {float(value.abs().max()):.4g}, more than float16 holds (65504)",
            hint="take the recipe `fp32` or one that quantizes matrices only",
        )
    return np.asarray(half.numpy())
