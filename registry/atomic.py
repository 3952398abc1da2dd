"""Atomic writes: a file or directory appears whole, under its own name, or not at all.

Everything is first written under a temporary name in the same file system, flushed to disk, and then renamed.
The writer holds a lock on its temporary while it runs, so that the leftovers of a killed process can be told
apart from the work of a live one without process ids, which mean nothing across containers and reboots.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from registry.errors import RegistryError, StorageFullError

SUFFIX = ".partial"
"""Suffix of every temporary name."""
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.ENOTSUP)  # NFS refuses an exclusive lock on a directory
_FULL = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EFBIG: "file size limit exceeded",
}


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Write `data` to `path`, whole or not at all; the result survives a power cut.

    Raises:
        StorageFullError: No space, quota or file size left; `path` is unchanged.
        RegistryError: The directory cannot be written to.
    """
    with storage_errors(path):
        sweep(path.parent, name=path.name)
    with storage_errors(path), temporary_file(path.parent, name=path.name) as (stream, temporary):
        stream.write(data)
        os.fchmod(stream.fileno(), mode)
        flush(stream)
        temporary.replace(path)
        sync_directory(path.parent)


@contextmanager
def temporary_file(directory: Path, *, name: str) -> Iterator[tuple[IO[bytes], Path]]:
    """An open, locked temporary file in `directory`; removed on exit unless it was renamed."""
    path = directory / f".{name}.{uuid.uuid4().hex}{SUFFIX}"
    with directory_lock(directory):  # no one may take it for abandoned before it is locked
        stream = path.open("xb")
        _try_lock(stream.fileno())
    try:
        with stream:
            yield stream, path
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def temporary_directory(target: Path) -> Iterator[Path]:
    """An empty directory next to `target` that becomes `target` on exit, unless an error is raised.

    Leftovers of killed processes for the same target are removed first.

    Raises:
        RegistryError: `target` exists and is not an empty directory, or its parent cannot be written to.
        StorageFullError: No space left; nothing is left behind.
    """
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        sweep(target.parent, name=target.name)
        with scratch_directory(target.parent, name=target.name) as path:
            yield path
            sync_directory(path)
            _replace_directory(path, target=target)


@contextmanager
def scratch_directory(parent: Path, *, name: str) -> Iterator[Path]:
    """An empty directory below `parent` for work in progress; removed on exit unless it was renamed.

    Its parent holds the lock, so that the lock of the directory itself is free for temporaries made in it.

    Raises:
        StorageFullError: No space left.
        RegistryError: `parent` cannot be written to.
    """
    with storage_errors(parent), directory_lock(parent):
        outer = parent / f".{name}.{uuid.uuid4().hex}{SUFFIX}"
        outer.mkdir()
        handle = os.open(outer, os.O_RDONLY | os.O_DIRECTORY)
        _try_lock(handle)
    try:
        inner = outer / "content"
        with storage_errors(parent):
            inner.mkdir()
        yield inner
    finally:
        os.close(handle)
        remove_tree(outer)


def sweep(directory: Path, *, name: str = "*") -> None:
    """Remove the leftovers of killed processes in `directory`; every writer does so before it starts."""
    with directory_lock(directory):
        for leftover in abandoned(directory, name=name):
            remove_tree(leftover)


def abandoned(directory: Path, *, name: str = "*") -> list[Path]:
    """Temporaries in `directory` whose process is gone.

    Call it while holding `directory_lock`, which is also held when temporaries are made.
    """
    return [path for path in sorted(directory.glob(f".{name}.*{SUFFIX}")) if _is_abandoned(path)]


@contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold the exclusive lock of a directory, without a lock file; released when the process ends."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield
    finally:
        os.close(handle)


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`, which is kept; released when the process ends."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn the operating system's errors on a write into Rung's.

    Raises:
        StorageFullError: No space, quota or file size left.
        RegistryError: Not permitted, read-only, a file where a directory should be …
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageFullError(
                f"cannot write `{where}`: {_FULL[error.errno]}",
                hint="free space (or raise the limit) on this file system, then run the same command again",
            ) from error
        raise RegistryError(
            f"cannot write `{where}`: {error.strerror or error}",
            hint="check that the path exists and that you may write to it",
        ) from error


def flush(stream: IO[bytes]) -> None:
    """Force a file's content to disk."""
    stream.flush()
    os.fsync(stream.fileno())


def sync_directory(directory: Path) -> None:
    """Force a directory's entries to disk."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_tree(path: Path) -> None:
    """Remove a file, or a directory with everything in it, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace_directory(path: Path, *, target: Path) -> None:
    """Rename to an absent or empty target; fail on any other."""
    try:
        path.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise RegistryError(
                f"`{target}` already exists and is not an empty directory",
                hint="remove it, or give another directory",
            ) from error
        raise
    sync_directory(target.parent)


def _try_lock(handle: int) -> bool:
    """Whether the lock was free and is now ours; False too where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (*_NO_LOCKS, errno.EWOULDBLOCK):
            raise
        return False
    return True


def _is_abandoned(temporary: Path) -> bool:
    try:
        handle = os.open(temporary, os.O_RDONLY if temporary.is_dir() else os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        return _try_lock(handle)
    finally:
        os.close(handle)
