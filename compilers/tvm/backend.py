"""TVM as a backend: machine code for processors, NVIDIA's and AMD's GPUs."""

from __future__ import annotations

from pathlib import Path

from compilers.aarch64_emulation.environment import EMULATORS, ROOT_VARIABLE
from compilers.backend import Backend, Format, StandIns
from compilers.check.bounds import Arithmetic, FloatSums, IntegerProducts
from compilers.lazy import Lazy
from compilers.proof.claim import Claims
from compilers.proof.proof import BinaryKind
from registry.artifact import Manifest
from registry.weight_form import CodedWeights, FloatWeights, WeightForm

OPENCL_VENDORS = Path("/etc/OpenCL/vendors")
"""Where OpenCL's loader finds implementations (https://github.com/KhronosGroup/OpenCL-ICD-Loader)."""


def same_parts(version: str, manifest: Manifest) -> bool:
    """Whether a runtime can run the code: each part of its version is one of the toolchain's."""
    return set(version.split("+")) <= set(manifest.toolchain_version.split("+"))


def _claims(*code: BinaryKind) -> Claims:
    return Claims(
        code=frozenset(code),
        around=frozenset({"elf"}),
        rules=(Lazy("compilers.tvm.proof:check_library"), Lazy("compilers.tvm.proof:check_kernels")),
    )


def arithmetic(form: WeightForm) -> Arithmetic:
    """Inputs are rounded to 16 bits for 8-bit groups; for all other codes to 8, or in two parts of 8 bits."""
    match form:
        case CodedWeights(8, int(), "float"):
            return IntegerProducts(16)
        case CodedWeights(wide_inputs=wide):
            return IntegerProducts(15 if wide else 8)
        case FloatWeights():
            return FloatSums()


BACKEND = Backend(
    name="tvm",
    format=Format(
        name="tvm",
        runtime=Lazy("compilers.tvm.run:TvmRuntime"),
        claims={"cpu": _claims("elf"), "cuda": _claims("fatbin", "cubin"), "rocm": _claims("hsaco")},
        rehearse=Lazy("compilers.tvm.rehearse:rehearse_tvm"),
        stand_ins=StandIns(programs=EMULATORS, variables=(ROOT_VARIABLE,), folders={OPENCL_VENDORS: "*.icd"}),
        runs=same_parts,
    ),
    toolchain=Lazy("compilers.tvm.lower:TvmToolchain"),
    extra="build",
    devices=Lazy("compilers.tvm.devices:gpus_here"),
    page="docs/toolchains/tvm.md",
    arithmetic=arithmetic,
)
