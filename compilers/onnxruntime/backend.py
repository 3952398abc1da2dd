"""ONNX Runtime as a backend: its CPU execution provider."""

from __future__ import annotations

from compilers.aarch64_emulation.environment import EMULATORS, ROOT_VARIABLE
from compilers.backend import Backend, Format, StandIns
from compilers.check.bounds import Arithmetic, FloatSums, IntegerProducts
from compilers.lazy import Lazy
from compilers.onnxruntime.cache import HEAD_MULTIPLE
from compilers.proof.claim import Claims
from registry.weight_form import CodedWeights, WeightForm


def arithmetic(form: WeightForm) -> Arithmetic:
    """Inputs are rounded per token or per block of a token, to 8 bits, or in two parts of 8 bits."""
    if not isinstance(form, CodedWeights):
        return FloatSums()
    return IntegerProducts(15 if form.wide_inputs else 8)


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
    arithmetic=arithmetic,
)
