"""Scratch directories of workers: one per piece of work, locked while in use, removed when left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.stages.context import UNFINISHED

LOCK_NAME = "lock"
"""File in each scratch directory that its build holds locked."""
KEPT_S = 7 * 24 * 3600.0
"""How long parts of a stage that was killed wait for the next build of it."""


@contextlib.contextmanager
def scratch_directory(parent: Path) -> Iterator[Path]:
    """A new scratch directory below `parent`, removed at the end."""
    directory = Path(tempfile.mkdtemp(dir=parent))
    handle = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(handle)


def remove_stale_scratch(scratch: Path) -> list[Path]:
    """Remove scratch directories whose build is gone; the removed ones."""
    removed = []
    for directory in stale_scratch(scratch):
        shutil.rmtree(directory, ignore_errors=True)
        removed.append(directory)
    return removed


def stale_scratch(scratch: Path) -> list[Path]:
    """Scratch directories whose build is gone, and unfinished parts that nobody came back to."""
    if not scratch.is_dir():
        return []
    stale = []
    for directory in sorted(p for p in scratch.iterdir() if p.is_dir()):
        if directory.name.startswith(UNFINISHED) and time.time() - directory.stat().st_mtime < KEPT_S:
            continue
        try:
            handle = os.open(directory / LOCK_NAME, os.O_RDWR)
        except FileNotFoundError:
            stale.append(directory)
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            stale.append(directory)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)
    return stale
