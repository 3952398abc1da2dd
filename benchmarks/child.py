"""Child processes of the benchmark: their environment, and that they die with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""Where `python -m benchmarks.…` finds the sources."""

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


def child_environment() -> dict[str, str]:
    """The environment of a child: no network access, no threads other than the engine's."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**inherited, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the benchmark dies, so that nothing is left running."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
