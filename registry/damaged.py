"""Find damaged blobs of the content store before a build, without reading again what nobody has touched.

`rung doctor` reads every byte. A build cannot take that time, so it reads a blob once and remembers the size,
times and inode that its file had; while these are the same, the file was not written to. (`ctime` changes
with every write and, unlike `mtime`, cannot be set back.) What a disk damages without a write is found by
whoever uses the blob: every reader checks digests.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from registry.atomic import write_atomically
from registry.digest import PATTERN, canonical_json, digest_file
from registry.store import Store

CHECKED_NAME: Final = "checked.json"
_Marks = dict[str, tuple[int, int, int, int]]
"""Name of a blob → size, mtime and ctime in ns, and inode when its bytes had their digest."""
_MARKS: Final = TypeAdapter(_Marks)


def remove_damaged(store: Store) -> list[str]:
    """Remove the blobs whose bytes do not have their digest, and return their digests, sorted.

    The first call reads every blob; later ones those that were added or touched since. A blob that cannot be
    read is returned and left where it is.

    Raises:
        StorageFullError: No space is left for the record of what was checked.
    """
    path = store.root / CHECKED_NAME
    before = _read(path)
    after: _Marks = {}
    damaged = []
    for blob in sorted(store.blobs.iterdir()) if store.blobs.is_dir() else []:
        name, digest = blob.name, f"sha256:{blob.name}"
        if not PATTERN.match(digest):
            continue
        try:
            mark = _mark(blob)
            if before.get(name) == mark or digest_file(blob) == digest:
                after[name] = mark
                continue
            blob.unlink()
        except FileNotFoundError:
            continue  # collected in the meantime
        except OSError:
            pass  # it cannot be read, or something else is in its place: a person has to look at it
        damaged.append(digest)
    if after != before:
        write_atomically(path, canonical_json(after))
    return damaged


def _mark(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise IsADirectoryError(path)
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _read(path: Path) -> _Marks:
    try:
        return _MARKS.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return {}  # every blob is read again
