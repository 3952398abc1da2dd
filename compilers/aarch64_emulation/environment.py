"""AArch64 emulation: the names of QEMU's programs, and of the variable that holds the path of the userland.

Apart from the session, so that a backend that only names them does not depend on the emulation's code.
"""

from __future__ import annotations

ROOT_VARIABLE = "RUNG_AARCH64_ROOT"
"""Directory with the userland that `root.py` makes."""
EMULATORS = ("qemu-aarch64-static", "qemu-aarch64")
"""Looked for on PATH, in this order."""
