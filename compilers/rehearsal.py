"""Rehearsals: how an artifact is run on a machine that is not its target, by an emulator or a stand-in.

Qualcomm ships an x86 library that executes HTP context binaries, QEMU executes AArch64 libraries, Mesa's
llvmpipe executes SPIR-V, and ONNX Runtime's CPU provider executes a portable graph. What is measured so is
evidence of the artifact's arithmetic, never of the chip: it is recorded with the means in the place of the
chip (`matrices/cells/cell.py`, `via`), and does not lift the cell to `loads`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from compilers.runtime import Bundle, Session
from compilers.toolchain import Unsupported


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
