"""Opening a GPU artifact: its files, the right GPU, and no other one in its place."""

from __future__ import annotations

from pathlib import Path

from compilers.plan_file import read_plan_file
from compilers.runtime import Bundle
from compilers.tvm.common.weights import open_weights
from compilers.tvm.gpu.driver import Driver, open_gpus
from compilers.tvm.gpu.plan import LAUNCHES_NAME, GpuPlan
from compilers.tvm.gpu.session import GpuSession
from registry.errors import LoadError
from registry.target import Target, runs_on
from registry.variant import WEIGHTS_NAME

_STARTS = {"cuda": b"\x50\xed\x55\xba", "rocm": b"\x7fELF"}
"""First bytes of a fatbin and of a code object."""


def open_session(bundle: Bundle, target: Target) -> GpuSession:
    """A session on the first GPU of this machine that runs the target's code.

    Raises:
        LoadError: There is no such GPU or driver, or the files are damaged or do not belong together.
    """
    code = read_code(bundle.path / bundle.manifest.entry, target)
    plan = read_plan(bundle.path)
    return start(bundle, plan, choose_gpu(open_gpus(target.kind), target), code)


def start(bundle: Bundle, plan: GpuPlan, driver: Driver, code: bytes) -> GpuSession:
    """A session on this GPU.

    Raises:
        LoadError: The weights do not belong to the plan, or the GPU refuses the code.
    """
    weights = open_weights(bundle.path / WEIGHTS_NAME, plan.tensors)
    return GpuSession(plan, driver, code, weights, max_context=bundle.manifest.facts.max_context)


def choose_gpu(gpus: list[Driver], target: Target) -> Driver:
    """The GPU that runs code of the target: the one with most memory, of equals the first.

    Raises:
        LoadError: None does.
    """
    fitting = [gpu for gpu in gpus if runs_on(target, gpu.architecture)]
    if fitting:
        return max(fitting, key=lambda gpu: gpu.memory_bytes)
    found = ", ".join(f"{gpu.chip} ({gpu.architecture})" for gpu in gpus)
    raise LoadError(
        f"no GPU here runs code of `{target.name}`: {found}",
        hint="choose an artifact whose target this host has; `rung resolve` does that",
    )


def read_plan(folder: Path) -> GpuPlan:
    """The plan of an artifact.

    Raises:
        LoadError: It is missing or of another version.
    """
    return read_plan_file(folder / LAUNCHES_NAME, GpuPlan)


def read_code(path: Path, target: Target) -> bytes:
    """An artifact's machine code; source, which a driver might compile in silence, is refused.

    Raises:
        LoadError: It is missing, or no machine code.
    """
    hint = "pull or build the artifact again"
    try:
        code = path.read_bytes()
    except OSError as error:
        raise LoadError(f"cannot read `{path}`: {error}", hint=hint) from error
    if not code.startswith(_STARTS[target.kind]):
        raise LoadError(f"`{path}` contains no machine code for {target.kind} GPUs", hint=hint)
    return code
