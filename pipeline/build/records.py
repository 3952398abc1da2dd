"""Stage records as the build sees them: an answer only while the bytes it names are still in the store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from matrices.ledger.build_records import BuildRecord
from matrices.ledger.ledger import Ledger
from registry.store import Store
from registry.value import Value

V = TypeVar("V", bound=Value)

BLOB_FIELDS = frozenset({"tokens", "logits", "log", "scorecard"})
"""Fields whose digest is that of a blob; so is the `digest` of every file entry. Other digests name a
checkpoint, an artifact or a set of tasks."""


class Records:
    """Finds stage outputs by key.

    Args:
        ledger: The database.
        store: Where the bytes are.
    """

    def __init__(self, ledger: Ledger, store: Store) -> None:
        self._ledger = ledger
        self._store = store
        self._found: dict[str, BuildRecord] = {}

    def record(self, key: str) -> BuildRecord | None:
        """The record of a key, or None if the stage has to be run (again)."""
        if key in self._found:
            return self._found[key]
        record = self._ledger.find_stage(key)
        if record is None or not all(self._store.has(digest) for digest in blobs_of(record.output)):
            return None
        self._found[key] = record
        return record

    def find(self, key: str, kind: type[V]) -> V | None:
        """The recorded output of a key as a value, or None if the stage has to be run (again)."""
        record = self.record(key)
        return None if record is None else kind.model_validate(record.output)


def blobs_of(output: object) -> Iterator[str]:
    """Digests of the blobs that a stage's output refers to, wherever they stand in it."""
    if isinstance(output, dict):
        if "path" in output and "digest" in output:
            yield str(output["digest"])
        for name, value in output.items():
            if name in BLOB_FIELDS and isinstance(value, str):
                yield value
            else:
                yield from blobs_of(value)
    elif isinstance(output, list):
        for value in output:
            yield from blobs_of(value)
