"""Rehearsals of TVM artifacts: which stand-in executes an artifact whose target is not this machine."""

from __future__ import annotations

from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle
from compilers.toolchain import Unsupported
from registry.errors import UnknownNameError
from registry.target import find_target


def rehearse_tvm(bundle: Bundle) -> Rehearsal | Unsupported:
    """A session that executes the artifact by other means than its target.

    Raises:
        LoadError: The artifact is damaged, or the means are there and it does not run.
    """
    try:
        target = find_target(bundle.manifest.target)
    except UnknownNameError as error:
        return Unsupported("not_implemented", error.message)
    match target.kind:
        case "cpu":
            from compilers.aarch64_emulation.session import rehearse_aarch64

            return rehearse_aarch64(bundle)
        case "cuda" | "rocm":
            from compilers.tvm.gpu.rehearse import rehearse_gpu

            return rehearse_gpu(bundle, target)
        case _:
            return Unsupported("not_implemented", f"no stand-in executes TVM's code for `{target.name}`")
