"""External data of ONNX graphs: initializers that refer to tensors of the weights file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from onnx import TensorProto

from compilers.model.weights import Dtype, StoredTensor
from registry.variant import WEIGHTS_NAME

TYPES: Final[Mapping[Dtype, int]] = {
    "F32": TensorProto.FLOAT,
    "F16": TensorProto.FLOAT16,
    "U8": TensorProto.UINT8,
    "I8": TensorProto.INT8,
}
"""Element types of the weights file as ONNX numbers them."""


def external_tensor(
    name: str, tensors: Sequence[StoredTensor], *, shape: Sequence[int] | None = None
) -> TensorProto:
    """An initializer whose bytes are those of one tensor, or of several that adjoin.

    Args:
        name: Of the initializer.
        tensors: Of one type, in the order of the file.
        shape: The first tensor's if None.
    """
    first = tensors[0]
    proto = TensorProto(name=name, data_type=TYPES[first.dtype], dims=first.shape if shape is None else shape)
    proto.data_location = TensorProto.EXTERNAL
    size_bytes = sum(tensor.size_bytes for tensor in tensors)
    for key, value in (("location", WEIGHTS_NAME), ("offset", first.offset), ("length", size_bytes)):
        proto.external_data.add(key=key, value=str(value))
    return proto
