"""The emulator and its root: `RUNG_AARCH64_ROOT`, or one that `make aarch64-root` has made."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from compilers.aarch64_emulation.environment import EMULATORS, ROOT_VARIABLE
from compilers.aarch64_emulation.session import PYTHON

MADE = Path(__file__).parents[3] / ".aarch64-root"
"""Where the Makefile puts it."""


@pytest.fixture(scope="session")
def aarch64_root() -> Path:
    if not any(shutil.which(name) for name in EMULATORS):
        pytest.skip("no qemu-aarch64-static: install qemu-user-static")
    root = Path(os.environ.get(ROOT_VARIABLE, MADE))
    if not (root / PYTHON).exists():
        pytest.skip(f"no AArch64 root at {root}: `make aarch64-root` makes one")
    return root


@pytest.fixture(scope="session")
def emulated(aarch64_root: Path) -> Path:
    """The root, named in the environment as a user would."""
    os.environ[ROOT_VARIABLE] = str(aarch64_root)
    return aarch64_root
