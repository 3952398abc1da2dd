"""Locks of a workspace; they die with their process.

Whoever adds blobs before a row or a registry names them holds the writers' lock together with others; who
removes what nothing names holds it alone. Builds besides exclude one another.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from registry.errors import ConfigurationError
from registry.workspace import Workspace


@contextlib.contextmanager
def build_lock(workspace: Workspace) -> Iterator[None]:
    """One build at a time.

    Raises:
        ConfigurationError: Another one is running.
    """
    with _locked(workspace.build_lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as imported:
        if not imported:
            raise ConfigurationError(
                f"another build is running in workspace `{workspace.root}`",
                hint="wait for it, or use another workspace",
            )
        yield


@contextlib.contextmanager
def writing(workspace: Workspace) -> Iterator[None]:
    """Blobs may be added; waits while unused ones are removed."""
    with _locked(workspace.writers_lock, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def alone(workspace: Workspace) -> Iterator[bool]:
    """Whether nobody is adding blobs; then nobody can until the end."""
    with _locked(workspace.writers_lock, fcntl.LOCK_EX | fcntl.LOCK_NB) as imported:
        yield imported


@contextlib.contextmanager
def _locked(path: Path, how: int) -> Iterator[bool]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, how)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(handle)
