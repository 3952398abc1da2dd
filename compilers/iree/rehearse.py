"""Rehearsals of IREE artifacts: SPIR-V on Mesa's llvmpipe, AArch64 code under QEMU."""

from __future__ import annotations

import os
from pathlib import Path

from compilers.iree.device import find_device, open_session
from compilers.iree.package import RUNTIME, installed_version
from compilers.plan_file import PLAN_NAME
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle
from compilers.static.plan import read_plan
from compilers.toolchain import Unsupported
from registry.errors import LoadError
from registry.target import find_target
from registry.variant import WEIGHTS_NAME

SOFTWARE_DEVICE = "llvmpipe"


def rehearse_iree(bundle: Bundle) -> Rehearsal | Unsupported:
    """Open an artifact on a stand-in for its target.

    Raises:
        LoadError: The artifact is damaged, or does not run although the stand-in is there.
        ToolchainMissingError: IREE's runtime is not installed.
    """
    target = find_target(bundle.manifest.target)
    if target.kind == "cpu" and target.architecture == "aarch64":
        return _emulated(bundle)
    if target.kind != "vulkan":
        return Unsupported("not_upstream", f"no emulator of {target.kind} targets runs IREE modules")
    version = installed_version(RUNTIME)
    try:
        found = find_device("vulkan", named=SOFTWARE_DEVICE)
    except LoadError as error:
        return Unsupported("not_upstream", f"Mesa's llvmpipe is not on this machine: {error.message}")
    plan = read_plan(bundle.path / PLAN_NAME)
    session = open_session(
        found.device, plan, module=bundle.path / bundle.manifest.entry, weights=bundle.path / WEIGHTS_NAME
    )
    return Rehearsal(session=session, means=found.name, runtime_version=version)


def _emulated(bundle: Bundle) -> Rehearsal | Unsupported:
    """Under QEMU, by IREE's own runtime for AArch64."""
    from compilers.aarch64_emulation.environment import ROOT_VARIABLE
    from compilers.aarch64_emulation.session import PACKAGES, rehearse_aarch64

    root = os.environ.get(ROOT_VARIABLE)
    if root and not (Path(root) / PACKAGES / "iree" / "runtime").is_dir():
        return Unsupported(
            "not_implemented",
            "the AArch64 root has no IREE: make it again with "
            f"`python -m compilers.aarch64_emulation.root {root}`",
        )
    return rehearse_aarch64(bundle)
