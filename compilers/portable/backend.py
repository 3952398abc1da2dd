"""CANN and OpenVINO as backends: portable graphs, which a node with the vendor's compiler compiles."""

from __future__ import annotations

from compilers.backend import Backend, Format, StandIns
from compilers.check.bounds import half_sums
from compilers.lazy import Lazy
from compilers.proof.claim import Claims

PORTABLE = Format(
    name="portable",
    runtime=Lazy("compilers.portable.run:PortableRuntime"),
    claims={
        "npu": Claims(code=frozenset({"onnx"}), rules=(Lazy("compilers.portable.proof:check_graph"),)),
    },
    rehearse=Lazy("compilers.portable.rehearse:rehearse_portable"),
    stand_ins=StandIns(packages=("onnxruntime",)),
    compiled_on_node=True,
)

CANN = Backend(
    name="cann",
    format=PORTABLE,
    toolchain=Lazy("compilers.portable.lower:cann_toolchain"),
    extra="build",
    page="docs/toolchains/cann.md",
    arithmetic=half_sums,
)

OPENVINO = Backend(
    name="openvino",
    format=PORTABLE,
    toolchain=Lazy("compilers.portable.lower:openvino_toolchain"),
    extra="build",
    page="docs/toolchains/openvino.md",
    arithmetic=half_sums,
)
