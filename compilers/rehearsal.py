"""Rehearsals: how an artifact is run on a machine that is not its target, by an emulator or a stand-in.

Qualcomm ships an x86 library that executes HTP context binaries, QEMU executes AArch64 libraries, Mesa's
llvmpipe executes SPIR-V, and ONNX Runtime's CPU provider executes a portable graph. What is measured so is
evidence of the artifact's arithmetic, never of the chip: it is recorded with the means in the place of the
chip (`matrices/cells/cell.py`, `via`), and does not lift the cell to `loads`.
"""

from __future__ import annotations

import importlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import cast

from compilers.runtime import Bundle, Session
from compilers.toolchain import Unsupported
from registry.artifact import ArtifactFormat


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A session that runs an artifact by other means than its target."""

    session: Session
    means: str
    """What executes it, with its version: `qemu-aarch64 7.2.0`, `QNN HTP emulation 2.7.0` …"""
    runtime_version: str
    """Version of the runtime library inside."""


Rehearse = Callable[[Bundle], "Rehearsal | Unsupported"]
"""Raises LoadError where the artifact is damaged or does not run; `Unsupported` where means are absent."""

OPENCL_VENDORS = Path("/etc/OpenCL/vendors")
"""Where OpenCL's loader finds implementations (https://github.com/KhronosGroup/OpenCL-ICD-Loader)."""
REHEARSALS: Mapping[ArtifactFormat, str] = {
    "iree": "compilers.iree.rehearse:rehearse_iree",
    "onnxruntime": "compilers.aarch64_emulation.session:rehearse_aarch64",
    "tvm": "compilers.tvm.rehearse:rehearse_tvm",
    "qnn": "compilers.qnn.rehearse:rehearse_qnn",
    "portable": "compilers.portable.rehearse:rehearse_portable",
}
"""Artifact format → `module:function`, imported on first use; formats that are not named have no stand-in."""


def stand_ins_here() -> dict[str, str | None]:
    """What rehearsals on this machine depend on; they are done again when it changes. Starts nothing."""
    tools = {name: shutil.which(name) for name in ("qemu-aarch64-static", "qemu-aarch64")}
    packages = {name: _version(name) for name in ("iree-base-runtime", "onnxruntime", "onnxruntime-qnn")}
    roots = {name: os.environ.get(name) for name in ("RUNG_AARCH64_ROOT", "VK_ICD_FILENAMES")}
    opencl = {"opencl": " ".join(sorted(path.name for path in OPENCL_VENDORS.glob("*.icd"))) or None}
    return {**tools, **packages, **roots, **opencl}


def rehearse(bundle: Bundle) -> Rehearsal | Unsupported:
    """Open an artifact for a rehearsal on this machine.

    Raises:
        LoadError: The artifact is damaged, or the means are there and it does not run.
    """
    place = REHEARSALS.get(bundle.manifest.format)
    if place is None:
        return Unsupported("not_upstream", f"nothing on another machine runs `{bundle.manifest.format}` code")
    module, _, attribute = place.partition(":")
    return cast("Rehearse", getattr(importlib.import_module(module), attribute))(bundle)


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
