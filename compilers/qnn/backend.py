"""QNN as a backend: Qualcomm's HTP, by way of ONNX Runtime's execution provider."""

from __future__ import annotations

import re

from compilers.backend import Backend, Format, StandIns
from compilers.check.bounds import half_sums
from compilers.lazy import Lazy
from compilers.proof.claim import Claims, CodeReader
from compilers.proof.graph import CODE_NODE

_READ_CODE: Lazy[CodeReader] = Lazy("compilers.qnn.proof:read_code")

BACKEND = Backend(
    name="qnn",
    format=Format(
        name="qnn",
        runtime=Lazy("compilers.qnn.run:QnnRuntime"),
        claims={
            "npu": Claims(
                code=frozenset({"qnn-context"}),
                around=frozenset({"onnx"}),
                rules=(Lazy("compilers.qnn.proof:check_contexts"),),
            )
        },
        rehearse=Lazy("compilers.qnn.rehearse:rehearse_qnn"),
        stand_ins=StandIns(packages=("onnxruntime", "onnxruntime-qnn")),
        readers={".bin": _READ_CODE, ".ctx": _READ_CODE, CODE_NODE: _READ_CODE},
    ),
    toolchain=Lazy("compilers.qnn.lower:QnnToolchain"),
    extra="qnn",
    page="docs/toolchains/qnn.md",
    arithmetic=half_sums,
    private_files=re.compile(
        r"(?i)(?:^|/)(?:lib)?(?:qnn|hexagon|snpe|cdsprpc)[^/]*\.(?:so(?:\.\d+)*|dll|cat|a|lib)$"
    ),
)
