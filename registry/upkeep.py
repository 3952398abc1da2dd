"""Maintenance of the content store: verify, repair and garbage-collect."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from registry import oci
from registry.atomic import abandoned, directory_lock, storage_errors, sweep
from registry.digest import PATTERN, canonical_json, digest_file
from registry.errors import CorruptError, NotFoundError
from registry.store import Store

GRACE_S = 3600.0
"""Content younger than this is never collected: whoever added it may not have recorded it yet."""
_IMAGE_LIMIT_BYTES = 4 << 20  # manifests are small, as registries demand


@dataclass(frozen=True, slots=True)
class StoreProblem:
    """One problem found in a store."""

    kind: Literal["corrupt", "missing", "leftover", "index"]
    subject: str
    """Digest or path."""
    detail: str
    """One sentence: what is wrong with it."""


def verify(store: Store) -> list[StoreProblem]:
    """All problems of a store; reads every byte of it.

    Writers may run at the same time: their unfinished work is not a problem.
    """
    problems = [
        StoreProblem("leftover", str(path), "left behind by a process that is gone")
        for path in leftovers(store)
    ]
    for path in _blob_files(store):
        problem = _blob_problem(path)
        if problem:
            problems.append(problem)
    bad = {problem.subject for problem in problems if problem.kind == "corrupt"}
    if not store.layout.is_file() or store.layout.read_bytes() != canonical_json(oci.LAYOUT):
        problems.append(StoreProblem("index", str(store.layout), "is missing or is not of version 1.0.0"))
    try:
        entries = store.index.entries()
    except CorruptError as error:
        return [*problems, StoreProblem("index", str(store.index.path), error.message)]
    for entry in entries:
        problems += _entry_problems(store, entry, bad=bad)
    return problems


def repair(store: Store) -> list[StoreProblem]:
    """Repair what can be repaired, and return the problems found.

    Leftovers and damaged blobs are removed, descriptors of images that are no longer whole leave the index,
    and an index that cannot be read is rebuilt from the blobs. What was lost has to be built, added or pulled
    again.
    """
    problems = verify(store)
    _sweep(store)
    for problem in problems:
        if problem.kind == "corrupt":
            path = store.blobs / problem.subject.removeprefix("sha256:")
            path.unlink(missing_ok=True)
        if problem.kind == "index" and problem.subject == str(store.layout):
            store.layout.unlink(missing_ok=True)
    if any(problem.kind == "index" and problem.subject == str(store.index.path) for problem in problems):
        store.index.replace(list(_images(store)))
    Store.create(store.root)
    drop_broken_images(store)
    return problems


def drop_broken_images(store: Store) -> None:
    """Take the descriptors of artifacts and checkpoints that are not whole any more out of the index.

    Raises:
        CorruptError: The index is damaged.
    """
    store.index.keep_only(lambda entry: not _entry_problems(store, entry, bad=set()))


def collect(store: Store, *, keep: Collection[str], grace_s: float = GRACE_S) -> list[str]:
    """Remove blobs that nothing refers to, and return their digests.

    Args:
        store: The store.
        keep: Digests of artifacts and checkpoints, which keep all their files, and of single blobs.
        grace_s: Leave what was added (or added again) less than this many seconds ago.

    Raises:
        CorruptError: The index is damaged, so it is not known what is in use; nothing was removed.
    """
    youngest = _file_system_time(store) - grace_s
    wanted = set(keep)

    def is_wanted(entry: oci.Document) -> bool:
        root = (entry.get("annotations") or {}).get(oci.ROOT)
        return (
            root in wanted
            or entry["digest"] in wanted
            or _is_young(store, entry["digest"], youngest=youngest)
        )

    store.index.keep_only(is_wanted)
    used = wanted.union(*(_reachable(store, entry) for entry in store.index.entries()))
    removed = []
    for path in _blob_files(store):
        digest = f"sha256:{path.name}"
        if digest not in used and not _is_young(store, digest, youngest=youngest):
            path.unlink(missing_ok=True)
            removed.append(digest)
    _sweep(store)
    return removed


def unused(store: Store, *, keep: Collection[str]) -> list[str]:
    """Digests of blobs that nothing refers to; `collect` removes them once they are old enough.

    Raises:
        CorruptError: The index is damaged, so it is not known what is in use.
    """
    wanted = set(keep)
    entries = [
        entry
        for entry in store.index.entries()
        if (entry.get("annotations") or {}).get(oci.ROOT) in wanted or entry["digest"] in wanted
    ]
    used = wanted.union(*(_reachable(store, entry) for entry in entries))
    return [digest for path in _blob_files(store) if (digest := f"sha256:{path.name}") not in used]


def freed_bytes(paths: Iterable[Path]) -> int:
    """What the file system gets back if these files go: nothing of one that keeps another name."""
    names: dict[tuple[int, int], list[os.stat_result]] = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            about = path.lstat()
            names.setdefault((about.st_dev, about.st_ino), []).append(about)
    return sum(found[0].st_size for found in names.values() if len(found) >= found[0].st_nlink)


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """One blob of a store, as a collection sees it."""

    digest: str
    size_bytes: int
    age_s: float
    """Since it was added, or added again."""
    links: int
    """Names that the file has: more than one where something outside the store shares the bytes."""


def stored_blobs(store: Store) -> list[StoredBlob]:
    """Every blob of a store, sorted by digest."""
    now = _file_system_time(store)
    found = []
    for path in _blob_files(store):
        try:
            about = path.stat()
        except FileNotFoundError:
            continue  # collected in the meantime
        found.append(
            StoredBlob(f"sha256:{path.name}", about.st_size, max(0.0, now - about.st_mtime), about.st_nlink)
        )
    return found


def images(store: Store) -> dict[str, set[str]]:
    """Digest of an artifact or checkpoint → digests of all that its images hold, the images themselves too.

    Raises:
        CorruptError: The index or an image manifest is damaged.
    """
    found: dict[str, set[str]] = {}
    for entry in store.index.entries():
        try:
            held = _reachable(store, entry)
        except NotFoundError:
            continue  # `verify` names what is missing
        root = str((entry.get("annotations") or {}).get(oci.ROOT, entry["digest"]))
        found.setdefault(root, set()).update(held, {entry["digest"]})
    return found


def _sweep(store: Store) -> None:
    for directory in (store.ingest, store.root):
        if directory.is_dir():
            with storage_errors(directory):
                sweep(directory)


def leftovers(store: Store) -> list[Path]:
    """What processes that are gone left half-written in a store."""
    found: list[Path] = []
    for directory in (store.ingest, store.root):
        if directory.is_dir():
            with directory_lock(directory):
                found += abandoned(directory)
    return found


def _blob_files(store: Store) -> list[Path]:
    return sorted(store.blobs.iterdir()) if store.blobs.is_dir() else []


def _blob_problem(path: Path) -> StoreProblem | None:
    digest = f"sha256:{path.name}"
    if not PATTERN.match(digest):
        return StoreProblem("corrupt", str(path), "does not belong among the blobs")
    try:
        found = digest_file(path)
    except FileNotFoundError:
        return None  # collected in the meantime
    except OSError as error:
        return StoreProblem("corrupt", digest, f"cannot be read: {error.strerror}")
    return None if found == digest else StoreProblem("corrupt", digest, f"its bytes have the digest {found}")


def _entry_problems(store: Store, entry: oci.Document, *, bad: Collection[str]) -> list[StoreProblem]:
    name = (entry.get("annotations") or {}).get(oci.REF_NAME, entry["digest"])
    try:
        needed = _reachable(store, entry)
    except (CorruptError, NotFoundError):
        return [
            StoreProblem(
                "missing", entry["digest"], f"the image manifest of `{name}` is not here or is damaged"
            )
        ]
    gone = sorted(digest for digest in needed if not store.has(digest) and digest not in bad)
    return [StoreProblem("missing", digest, f"`{name}` needs it") for digest in gone]


def _reachable(store: Store, entry: oci.Document) -> set[str]:
    """Digests of an image's manifest, configuration and layers."""
    try:
        image = json.loads(store.read_bytes(entry["digest"]))
        return {entry["digest"], image["config"]["digest"], *(layer["digest"] for layer in image["layers"])}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(
            f"`{entry['digest']}` is not an OCI image manifest", hint="run `rung doctor --repair`"
        ) from error


def _images(store: Store) -> Iterator[oci.Document]:
    """Index descriptors of all image manifests among the blobs."""
    for path in _blob_files(store):
        if path.stat().st_size > _IMAGE_LIMIT_BYTES or _blob_problem(path):
            continue
        try:
            image = json.loads(path.read_bytes())
            if image["artifactType"] != oci.ARTIFACT_TYPE:
                continue
            kind, root = image["annotations"][oci.KIND], image["annotations"][oci.ROOT]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        if kind not in ("artifact", "checkpoint") or not isinstance(root, str):
            continue
        name = f"{kind}-{root.removeprefix('sha256:')}"
        yield oci.index_entry(
            digest=f"sha256:{path.name}", size_bytes=path.stat().st_size, kind=kind, root=root, name=name
        )


def _file_system_time(store: Store) -> float:
    """Now, by the clock that dates the blobs: on a file server it may differ from this machine's."""
    with storage_errors(store.root), tempfile.TemporaryFile(dir=store.root) as file:
        return os.fstat(file.fileno()).st_mtime


def _is_young(store: Store, digest: str, *, youngest: float) -> bool:
    try:
        return store.path(digest).stat().st_mtime > youngest
    except (NotFoundError, FileNotFoundError):
        return False
