"""Between the store and a worker's scratch directory."""

from __future__ import annotations

from pathlib import Path

from registry.artifact import MANIFEST_NAME, Manifest
from registry.checkpoint import Checkpoint, FileEntry
from registry.store import Store


def add_entry(store: Store, path: Path, *, name: str) -> FileEntry:
    """Put a file into the store; its entry under a name."""
    blob = store.add_file(path)
    return FileEntry(path=name, digest=blob.digest, size_bytes=blob.size_bytes)


def materialise_checkpoint(checkpoint: Checkpoint, *, store: Store, out: Path) -> Path:
    """The checkpoint's directory, by hard links where the file system allows."""
    store.materialise(checkpoint.files, out=out)
    return out


def materialise_small(checkpoint: Checkpoint, *, store: Store, out: Path) -> Path:
    """The checkpoint's directory without its weights."""
    store.materialise([f for f in checkpoint.files if not f.path.endswith(".safetensors")], out=out)
    return out


def materialise_bundle(manifest: Manifest, *, store: Store, out: Path) -> Path:
    """The bundle's directory, as a pull would leave it."""
    size = len(store.read_bytes(manifest.digest))
    store.materialise(
        (*manifest.files, FileEntry(path=MANIFEST_NAME, digest=manifest.digest, size_bytes=size)), out=out
    )
    return out
