"""The table of backends: every toolchain that Rung ships, with the module that declares it."""

from __future__ import annotations

from collections.abc import Mapping

BACKENDS: Mapping[str, str] = {
    "onnxruntime": "compilers.onnxruntime.backend:BACKEND",
    "tvm": "compilers.tvm.backend:BACKEND",
    "iree": "compilers.iree.backend:BACKEND",
    "qnn": "compilers.qnn.backend:BACKEND",
    "cann": "compilers.portable.backend:CANN",
    "openvino": "compilers.portable.backend:OPENVINO",
}
"""Toolchain → `module:attribute` of its `Backend`. A new backend is a folder and a line here."""
