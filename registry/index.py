"""The index of the content store: `index.json` of an OCI image layout, changed atomically under a lock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry import oci
from registry.atomic import file_lock, storage_errors, write_atomically
from registry.digest import PATTERN, canonical_json
from registry.errors import CorruptError


@dataclass(frozen=True, slots=True)
class Index:
    """The list of image manifests in a store."""

    path: Path
    """`index.json`."""

    def create(self) -> None:
        """Create an empty index unless one exists."""
        with self._locked():
            if not self.path.exists():
                self._write([])

    def entries(self) -> list[oci.Document]:
        """All descriptors, in the order in which they were added.

        Raises:
            CorruptError: The index is missing or is not an image index.
        """
        try:
            document = json.loads(self.path.read_bytes())
            entries = list(document["manifests"])
            if document["schemaVersion"] != 2 or not all(map(_is_descriptor, entries)):
                raise ValueError("not an image index of schema version 2")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise CorruptError(
                f"the store's index `{self.path}` cannot be read: {error}",
                hint="run `rung doctor --repair`: it rebuilds the index from the blobs",
            ) from error
        return entries

    def add(self, entry: oci.Document) -> None:
        """Add a descriptor unless it is already listed."""
        with self._locked():
            entries = self.entries()
            if entry not in entries:
                self._write([*entries, entry])

    def keep_only(self, wanted: Callable[[oci.Document], bool]) -> list[oci.Document]:
        """Remove every descriptor that is not wanted, and return those removed."""
        with self._locked():
            entries = self.entries()
            kept = [entry for entry in entries if wanted(entry)]
            if len(kept) != len(entries):
                self._write(kept)
            return [entry for entry in entries if entry not in kept]

    def replace(self, entries: list[oci.Document]) -> None:
        """Overwrite the index with these descriptors."""
        with self._locked():
            self._write(entries)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with storage_errors(self.path), file_lock(self.path.parent / "index.lock"):
            yield

    def _write(self, entries: list[oci.Document]) -> None:
        write_atomically(self.path, canonical_json({**oci.empty_index(), "manifests": entries}))


def _is_descriptor(entry: object) -> bool:
    """Whether an entry names a blob, and its annotations are texts; those of Rung stand together."""
    if not isinstance(entry, dict) or not isinstance(entry.get("digest"), str):
        return False
    annotations = entry.get("annotations") or {}
    return (
        PATTERN.fullmatch(entry["digest"]) is not None
        and isinstance(annotations, dict)
        and all(isinstance(value, str) for value in annotations.values())
        and (oci.KIND in annotations) == (oci.ROOT in annotations)
    )
