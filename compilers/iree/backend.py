"""IREE as a backend: machine code for processors, PTX, AMD code objects and SPIR-V."""

from __future__ import annotations

from compilers.aarch64_emulation.environment import EMULATORS, ROOT_VARIABLE
from compilers.backend import Backend, Format, StandIns
from compilers.lazy import Lazy
from compilers.proof.claim import Claims
from compilers.proof.proof import BinaryKind
from registry.artifact import Manifest


def same_series(version: str, manifest: Manifest) -> bool:
    """Whether a runtime loads the module: it is of the compiler's series.

    Source: https://iree.dev/developers/general/versioning-scheme/.
    """
    return version.split(".")[:2] == manifest.toolchain_version.split(".")[:2]


def _claims(*code: BinaryKind) -> Claims:
    return Claims(code=frozenset(code), around=frozenset({"vmfb"}))


BACKEND = Backend(
    name="iree",
    format=Format(
        name="iree",
        runtime=Lazy("compilers.iree.run:IreeRuntime"),
        claims={
            "cpu": _claims("elf"),
            "cuda": _claims("ptx", "fatbin", "cubin"),
            "rocm": _claims("hsaco"),
            "vulkan": _claims("spirv"),
        },
        rehearse=Lazy("compilers.iree.rehearse:rehearse_iree"),
        stand_ins=StandIns(
            programs=EMULATORS,
            packages=("iree-base-runtime",),
            variables=(ROOT_VARIABLE, "VK_ICD_FILENAMES"),
        ),
        runs=same_series,
    ),
    toolchain=Lazy("compilers.iree.lower:IreeToolchain"),
    extra="iree",
    page="docs/toolchains/iree.md",
    float_factor=1.5,
)
