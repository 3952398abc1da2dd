"""Processes that tests start indirectly: waiting for one to report its number, and for it to be gone."""

from __future__ import annotations

import os
import time
from pathlib import Path


def wait_for_pid(path: Path) -> int:
    """The process number that a process writes into a file."""
    for _ in range(1200):
        if path.exists() and (text := path.read_text()):
            return int(text)
        time.sleep(0.05)
    raise AssertionError(f"{path} never appeared")


def is_gone(pid: int) -> bool:
    """Whether a process ends within ten seconds; one that nobody has waited for counts as gone."""
    for _ in range(200):
        try:
            os.kill(pid, 0)
            if "State:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False
