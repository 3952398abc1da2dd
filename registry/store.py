"""The content-addressed store: everything that Rung keeps, by digest, as an OCI image layout.

    oci-layout            the layout's version
    index.json            one descriptor per artifact and checkpoint
    blobs/sha256/<hex>    read-only files whose name is their digest
    ingest/               temporaries of running writers

Every write is atomic (temporary file, flush, rename), idempotent and deduplicating, so that any number of
processes may write at once and any of them may be killed at any time. `registry/upkeep.py` checks, repairs
and collects garbage.
Source: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from registry import oci
from registry.artifact import MANIFEST_NAME, Manifest
from registry.atomic import (
    flush,
    storage_errors,
    sweep,
    sync_directory,
    temporary_directory,
    temporary_file,
    write_atomically,
)
from registry.checkpoint import Checkpoint, FileEntry, check_path
from registry.digest import CHUNK_BYTES, PATTERN, canonical_json, digest_bytes, digest_file
from registry.errors import CorruptError, NotFoundError, RegistryError
from registry.index import Index
from registry.value import describe

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Blob:
    """Content in the store."""

    digest: str
    size_bytes: int

    def at(self, path: str) -> FileEntry:
        """This content as a file of a tree.

        Raises:
            RegistryError: No tree can have a file of that name.
        """
        try:
            check_path(path)
        except ValueError as error:
            raise RegistryError(f"the file name {path!r} {error}", hint="rename the file") from error
        return FileEntry(path=path, digest=self.digest, size_bytes=self.size_bytes)


@dataclass(frozen=True, slots=True)
class Store:
    """A content store at a directory."""

    root: Path

    @classmethod
    def create(cls, root: Path) -> Store:
        """The store at `root`; created if missing.

        Raises:
            RegistryError: `root` cannot be written to, or holds an image layout of another version.
            StorageFullError: No space left.
        """
        store = cls(root)
        with storage_errors(root):
            store.blobs.mkdir(parents=True, exist_ok=True)
            store.ingest.mkdir(exist_ok=True)
        if not store.layout.exists():
            write_atomically(store.layout, canonical_json(oci.LAYOUT))
        elif store.layout.read_bytes() != canonical_json(oci.LAYOUT):
            raise RegistryError(
                f"`{store.layout}` is not an OCI image layout of version 1.0.0",
                hint="give another directory for the store, or correct the file",
            )
        store.index.create()
        return store

    @property
    def blobs(self) -> Path:
        """Directory of the blobs."""
        return self.root / "blobs" / "sha256"

    @property
    def ingest(self) -> Path:
        """Directory of writers' temporaries."""
        return self.root / "ingest"

    @property
    def layout(self) -> Path:
        """The file that marks an image layout and its version."""
        return self.root / "oci-layout"

    @property
    def index(self) -> Index:
        """The list of artifacts and checkpoints."""
        return Index(self.root / "index.json")

    def add_file(self, path: Path) -> Blob:
        """Store a file's content, in chunks; content that is stored already is not written again.

        Raises:
            NotFoundError: The file does not exist.
            StorageFullError: No space left; nothing half-written remains.
        """
        try:
            with path.open("rb") as stream:
                return self._take(_chunks(path, stream.fileno()))
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFoundError(f"no file at `{path}` to store", hint="check the path") from error

    def add_bytes(self, data: bytes) -> Blob:
        """Store bytes.

        Raises:
            StorageFullError: No space left; nothing half-written remains.
        """
        return self._take(iter((data,)))

    def add_tree(self, directory: Path) -> tuple[FileEntry, ...]:
        """Store every regular file below `directory`; sorted by path.

        Raises:
            NotFoundError: The directory does not exist.
            StorageFullError: No space left.
        """
        if not directory.is_dir():
            raise NotFoundError(f"no directory at `{directory}` to store", hint="check the path")
        paths = sorted(
            path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()
        )
        return tuple(self.add_file(directory / path).at(path) for path in paths)

    def has(self, digest: str) -> bool:
        """Whether the content is stored (by name; `verify` checks the bytes)."""
        return bool(PATTERN.match(digest)) and self._blob(digest).is_file()

    def path(self, digest: str) -> Path:
        """The read-only file that holds the content.

        Raises:
            NotFoundError: It is not stored.
        """
        if not self.has(digest):
            raise NotFoundError(
                f"the store `{self.root}` does not hold `{digest}`",
                hint="build, add or pull what it belongs to",
            )
        return self._blob(digest)

    def read_bytes(self, digest: str) -> bytes:
        """The content, checked against its digest.

        Raises:
            NotFoundError: It is not stored.
            CorruptError: The stored bytes have another digest.
        """
        data = self.path(digest).read_bytes()
        if digest_bytes(data) != digest:
            raise self._corrupt(digest)
        return data

    def materialise(
        self, files: Iterable[FileEntry], *, out: Path, share: Literal["link", "copy"] = "link"
    ) -> None:
        """Create the directory `out` with these files, whole or not at all, each checked against its digest.

        Args:
            files: Paths and digests.
            out: Absent, or an empty directory.
            share: `link`: hard links where the file system has them; the files are read-only, and forcing a
                write damages the store. `copy`: independent files, safe to hand out.

        Raises:
            NotFoundError: Content is not stored.
            CorruptError: Content has another digest.
            RegistryError: `out` is not empty.
            StorageFullError: No space left.
        """
        wanted = list(files)
        for file in wanted:
            self.path(file.digest)
        with temporary_directory(out) as directory:
            for file in wanted:
                target = directory / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                if share == "copy" or not self._link(file.digest, target=target):
                    self._copy(file.digest, target=target)

    def put_artifact(self, manifest: Manifest) -> str:
        """Register an artifact whose files are stored already; returns its digest.

        Raises:
            NotFoundError: One of its files is not stored.
            StorageFullError: No space left.
        """
        blob = self.add_bytes(canonical_json(manifest))
        layers = [oci.layer(blob.at(MANIFEST_NAME)), *(oci.layer(file) for file in manifest.files)]
        self._put_image(
            config=oci.artifact_config(manifest, layers=layers),
            layers=layers,
            kind="artifact",
            root=blob.digest,
            name=oci.artifact_name(manifest),
        )
        return blob.digest

    def put_checkpoint(self, checkpoint: Checkpoint, *, extra: Iterable[FileEntry] = ()) -> str:
        """Register a checkpoint whose files (and `extra` ones) are stored already; returns its digest.

        Raises:
            NotFoundError: One of its files is not stored.
            StorageFullError: No space left.
        """
        layers = [oci.layer(file) for file in (*checkpoint.files, *extra)]
        self._put_image(
            config=oci.checkpoint_config(checkpoint, layers=layers),
            layers=layers,
            kind="checkpoint",
            root=checkpoint.digest,
            name=oci.checkpoint_name(checkpoint),
        )
        return checkpoint.digest

    def find_artifact(self, digest: str) -> Manifest:
        """The manifest of an artifact.

        Raises:
            NotFoundError: The artifact is not stored.
            CorruptError: The blob is damaged or is not a manifest, or its entry is not one of its files.
        """
        try:
            manifest = Manifest.model_validate_json(self.read_bytes(digest))
        except ValidationError as error:
            raise CorruptError(
                f"`{digest}` is not an artifact's manifest: {describe(error)}",
                hint="give an artifact's digest",
            ) from error
        manifest.check_entry()
        return manifest

    def has_artifact(self, digest: str) -> bool:
        """Whether an artifact's manifest and all its files are stored, by name and size."""
        try:
            manifest = self.find_artifact(digest)
        except (NotFoundError, CorruptError):
            return False
        return all(
            self.has(f.digest) and self.path(f.digest).stat().st_size == f.size_bytes for f in manifest.files
        )

    def lists(self, root: str) -> bool:
        """Whether the index has an artifact or a checkpoint, by its digest.

        Raises:
            CorruptError: The index is damaged.
        """
        return any(_annotation(entry, oci.ROOT) == root for entry in self.index.entries())

    def artifacts(self) -> list[str]:
        """Digests of all artifacts, in the order in which they were registered.

        Raises:
            CorruptError: The index is damaged.
        """
        roots = [
            e["annotations"][oci.ROOT] for e in self.index.entries() if _annotation(e, oci.KIND) == "artifact"
        ]
        return list(dict.fromkeys(roots))

    def _put_image(
        self, *, config: oci.Document, layers: list[oci.Document], kind: oci.Kind, root: str, name: str
    ) -> None:
        for one in layers:
            self.path(one["digest"])
        stored = self.add_bytes(canonical_json(config))
        about = oci.descriptor(media_type=oci.CONFIG_TYPE, digest=stored.digest, size_bytes=stored.size_bytes)
        image = self.add_bytes(
            canonical_json(oci.image_manifest(config=about, layers=layers, kind=kind, root=root))
        )
        self.index.add(
            oci.index_entry(digest=image.digest, size_bytes=image.size_bytes, kind=kind, root=root, name=name)
        )

    def _take(self, chunks: Iterator[bytes]) -> Blob:
        state, size = hashlib.sha256(), 0
        with storage_errors(self.root):
            self.ingest.mkdir(parents=True, exist_ok=True)
            sweep(self.ingest)
            with temporary_file(self.ingest, name="blob") as (stream, temporary):
                for chunk in chunks:
                    stream.write(chunk)
                    state.update(chunk)
                    size += len(chunk)
                blob = Blob(digest="sha256:" + state.hexdigest(), size_bytes=size)
                stream.flush()
                if not self._refresh(blob):
                    os.fchmod(stream.fileno(), 0o444)
                    flush(stream)
                    self.blobs.mkdir(parents=True, exist_ok=True)
                    temporary.replace(self._blob(blob.digest))
                    sync_directory(self.blobs)
        return blob

    def _refresh(self, blob: Blob) -> bool:
        """Whether the content is stored and sound; if so, `collect` treats it as new again."""
        path = self._blob(blob.digest)
        try:
            if path.stat().st_size != blob.size_bytes or digest_file(path) != blob.digest:
                return False  # the new copy replaces it
            os.utime(path)
        except FileNotFoundError:
            return False
        except PermissionError:
            pass  # another user's blob in a shared store keeps its time
        return True

    def _link(self, digest: str, *, target: Path) -> bool:
        source = self._blob(digest)
        if digest_file(source) != digest:
            raise self._corrupt(digest)
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            return False
        return True

    def _copy(self, digest: str, *, target: Path) -> None:
        state = hashlib.sha256()
        with self._blob(digest).open("rb") as source, target.open("xb") as stream:
            while chunk := source.read(CHUNK_BYTES):
                stream.write(chunk)
                state.update(chunk)
            os.fchmod(stream.fileno(), 0o444)
            flush(stream)
        if "sha256:" + state.hexdigest() != digest:
            raise self._corrupt(digest)

    def _blob(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def _corrupt(self, digest: str) -> CorruptError:
        return CorruptError(
            f"blob `{self._blob(digest)}` does not have its digest: it was changed or damaged",
            hint="run `rung doctor --repair` to remove it, then build, add or pull again what it belongs to",
        )


def _annotation(entry: oci.Document, key: str) -> str | None:
    value = (entry.get("annotations") or {}).get(key)
    return value if isinstance(value, str) else None


def _chunks(path: Path, handle: int) -> Iterator[bytes]:
    try:
        while chunk := os.read(handle, CHUNK_BYTES):
            yield chunk
    except OSError as error:
        raise RegistryError(
            f"cannot read `{path}`: {error.strerror}", hint="check the disk it lies on"
        ) from error
