"""ONNX Runtime as a backend: its CPU execution provider."""

from __future__ import annotations

from compilers.aarch64_emulation.session import EMULATORS, ROOT_VARIABLE
from compilers.backend import Backend, Format, StandIns
from compilers.check.bounds import IntegerProducts
from compilers.lazy import Lazy
from compilers.onnxruntime.cache import HEAD_MULTIPLE
from compilers.proof.claim import Claims

BACKEND = Backend(
    name="onnxruntime",
    format=Format(
        name="onnxruntime",
        runtime=Lazy("compilers.onnxruntime.run:OnnxRuntime"),
        claims={
            "cpu": Claims(
                code=frozenset({"onnx"}),
                rules=(Lazy("compilers.onnxruntime.proof:check_graph"),),
                graph_compiler="the onnxruntime of the node",
            )
        },
        rehearse=Lazy("compilers.aarch64_emulation.session:rehearse_aarch64"),
        stand_ins=StandIns(programs=EMULATORS, variables=(ROOT_VARIABLE,)),
        kv_head_multiple=HEAD_MULTIPLE,
    ),
    toolchain=Lazy("compilers.onnxruntime.lower:OnnxRuntimeToolchain"),
    extra="build",
    page="docs/toolchains/onnxruntime.md",
    arithmetic=dict.fromkeys(
        ("w8a8", "w4g32", "w4g64", "w4g128", "w8g32", "w8g64", "w8g128"), IntegerProducts(activation_bits=8)
    ),
)
