"""Fetch: one blob from a source into the store, resumable and verified.

Bytes gather in `<partial>/<hex>`, locked by the fetch that writes them. Only when the digest is right does
the file join the store, by a rename. A killed fetch leaves its bytes for the next one; bytes that turn out
wrong are thrown away and fetched once more from the start.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from registry.atomic import flush, storage_errors, sync_directory
from registry.checkpoint import FileEntry
from registry.digest import CHUNK_BYTES, digest_file
from registry.errors import CorruptError, StorageFullError
from registry.store import Store
from serving.contract.problems import InterruptedFetchError
from serving.node.source import Deadline, Source

ATTEMPTS = 5
"""Interruptions in a row, none of which brought a byte, after which a fetch gives up."""
BACKOFF_S = 0.25
"""Pause after the first of them; doubles."""

Received = Callable[[int], None]
"""Told how many bytes of the blob are here."""


def fetch_blob(
    source: Source,
    file: FileEntry,
    *,
    store: Store,
    partial: Path,
    received: Received,
    deadline: Deadline,
) -> None:
    """Bring a blob into the store; nothing is fetched if it is there and sound.

    Args:
        source: A tree with `blobs/sha256/`.
        file: The blob.
        store: On the same file system as `partial`.
        partial: Directory of blobs that are not complete.
        received: Told the progress.
        deadline: When it must be here.

    Raises:
        NotFoundError: The source does not hold it.
        CorruptError: The source's bytes are not what the digest says.
        InterruptedFetchError: The source does not answer; what came stays for the next fetch.
        TooSlowError: It was not here in time; what came stays for the next fetch.
        StorageFullError: No space left; what came is removed.
    """
    path = partial / file.digest.removeprefix("sha256:")
    with storage_errors(path):
        partial.mkdir(parents=True, exist_ok=True)
    while not is_sound(store, file):
        with _locked(path) as stream:
            if stream is None:  # another fetch has finished or dropped it meanwhile
                continue
            if is_sound(store, file):  # it was finished between the look and the lock
                path.unlink(missing_ok=True)
                return
            try:
                filled = _fill(stream, source, file, received=received, deadline=deadline)
            except (StorageFullError, CorruptError):
                path.unlink(missing_ok=True)
                raise
            if filled.digest == file.digest:
                _take(stream, path, store=store, file=file)
                return
            path.unlink(missing_ok=True)
            if not filled.resumed:
                raise CorruptError(
                    f"the source's blob for `{file.path}` does not have its digest {file.digest}",
                    hint="the source is damaged or was changed: pull from another, or publish again",
                )


def is_sound(store: Store, file: FileEntry) -> bool:
    """Whether the store holds a blob, of the right size and digest."""
    if not store.has(file.digest):
        return False
    path = store.path(file.digest)
    return path.stat().st_size == file.size_bytes and digest_file(path) == file.digest


@dataclass(frozen=True, slots=True)
class _Filled:
    digest: str
    resumed: bool
    """Whether some bytes are from an earlier fetch."""


def _fill(
    stream: IO[bytes], source: Source, file: FileEntry, *, received: Received, deadline: Deadline
) -> _Filled:
    """Bring the partial file to its full length."""
    state = hashlib.sha256()
    stream.seek(0)
    while chunk := stream.read(CHUNK_BYTES):
        state.update(chunk)
    resumed = stream.tell() > 0
    failures = 0
    while stream.tell() < file.size_bytes:
        at = stream.tell()
        received(at)
        deadline.check(file.path)
        try:
            for chunk in _receive(stream, source, file):
                deadline.check(file.path)
                if stream.tell() == 0:  # the source could not resume
                    state, resumed = hashlib.sha256(), False
                with storage_errors(Path(stream.name)):
                    stream.write(chunk)
                state.update(chunk)
                received(stream.tell())
        except InterruptedFetchError:
            failures = failures + 1 if stream.tell() <= at else 1
            if failures >= ATTEMPTS:
                raise
            time.sleep(BACKOFF_S * 2 ** (failures - 1))
    return _Filled(digest="sha256:" + state.hexdigest(), resumed=resumed)


def _receive(stream: IO[bytes], source: Source, file: FileEntry) -> Iterator[bytes]:
    """Bytes that follow those in the stream; from the first one, with an emptied stream, if need be."""
    at = stream.tell()
    path = "blobs/sha256/" + file.digest.removeprefix("sha256:")
    with source.open(path, offset=at) as content:
        if content.size_bytes not in (None, file.size_bytes):
            raise _other_size(file, content.size_bytes)
        if content.start != at:
            with storage_errors(Path(stream.name)):
                stream.seek(0)
                stream.truncate()
        for chunk in content.chunks:
            if stream.tell() + len(chunk) > file.size_bytes:
                raise _other_size(file, f"more than {file.size_bytes}")
            yield chunk
    if stream.tell() < file.size_bytes:
        raise InterruptedFetchError.of(path, f"{stream.tell()} of {file.size_bytes} bytes came")


def _take(stream: IO[bytes], path: Path, *, store: Store, file: FileEntry) -> None:
    with storage_errors(path):
        os.fchmod(stream.fileno(), 0o444)
        flush(stream)
        path.replace(store.blobs / file.digest.removeprefix("sha256:"))
        sync_directory(store.blobs)


@contextmanager
def _locked(path: Path) -> Iterator[IO[bytes] | None]:
    """The partial file, locked; None if it was renamed or removed while another fetch held the lock."""
    with storage_errors(path):
        path.touch()
        stream = path.open("r+b")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        try:
            same = path.stat().st_ino == os.fstat(stream.fileno()).st_ino
        except FileNotFoundError:
            same = False
        yield stream if same else None


def _other_size(file: FileEntry, found: object) -> CorruptError:
    return CorruptError(
        f"the source's blob for `{file.path}` has {found} bytes, the manifest says {file.size_bytes}",
        hint="the source is damaged or was changed: pull from another, or publish again",
    )
