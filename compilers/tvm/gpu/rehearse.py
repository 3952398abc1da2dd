"""Rehearsal of a GPU artifact: its kernels and launches through OpenCL, on a machine without the GPU.

The kernels are made again by the same templates, and must have the digests that the artifact names: what
runs is the same TIR, with the same blocks, threads, barriers and shared memory, over the same weights. What
does not run is the machine code itself.
"""

from __future__ import annotations

from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle
from compilers.toolchain import Unsupported
from compilers.tvm.common.library import installed_version
from compilers.tvm.gpu.open import read_code, read_plan, start
from compilers.tvm.gpu.opencl import open_opencl
from registry.errors import BuildError, LoadError, ToolchainMissingError
from registry.target import Target


def rehearse_gpu(bundle: Bundle, target: Target) -> Rehearsal | Unsupported:
    """A session of the artifact's kernels on this machine's OpenCL device.

    Raises:
        LoadError: The artifact is damaged, of another version of the kernels, or does not run.
    """
    plan = read_plan(bundle.path)
    read_code(bundle.path / bundle.manifest.entry, target)
    driver = open_opencl()
    if driver is None:
        return Unsupported("not_implemented", "no OpenCL device here; install PoCL (`pocl-opencl-icd`)")
    try:
        version = installed_version()
        from compilers.tvm.gpu.compile import make_kernels, write_source
        from compilers.tvm.gpu.templates import kernel_digest

        kernels = make_kernels(plan)
        for name, form in plan.kernels.items():
            if kernel_digest(kernels[name]) != form.digest:
                raise LoadError(
                    f"the artifact's kernel `{name}` is of another version", hint="build the artifact again"
                )
        source = write_source(kernels, "opencl")
    except (ImportError, ToolchainMissingError) as error:
        return Unsupported("not_implemented", f"TVM's compiler is not installed: {error}")
    except BuildError as error:
        raise LoadError(error.message, hint=error.hint) from error
    session = start(bundle, plan, driver, source.encode())
    means = f"same kernels through {driver.version} on {driver.chip}"
    return Rehearsal(session=session, means=means, runtime_version=version)
