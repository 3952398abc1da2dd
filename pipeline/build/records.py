"""Stage records as the build sees them: an answer only while the bytes they name are still in the store."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Protocol, TypeVar

from matrices.ledger.build_records import BuildRecord, blobs_of
from pipeline.stages.stage import StageKey
from registry.digest import Digest
from registry.value import Value

O_co = TypeVar("O_co", bound=Value, covariant=True)
OutputT = TypeVar("OutputT", bound=Value)


class FindsStages(Protocol):
    """What finds stage records: the ledger."""

    def find_stage(self, key: str) -> BuildRecord | None:
        """The record of a build key."""
        ...


class HoldsBlobs(Protocol):
    """What holds blobs: the store."""

    def has(self, digest: str) -> bool:
        """Whether a blob is there."""
        ...

    def read_bytes(self, digest: str) -> bytes:
        """A blob's bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Recorded(Generic[O_co]):
    """A stage's output, and when it was finished."""

    output: O_co
    finished_at: datetime


class Records:
    """Finds stage outputs by key.

    Args:
        ledger: The database.
        store: Where the bytes are.
    """

    def __init__(self, ledger: FindsStages, store: HoldsBlobs) -> None:
        self._ledger = ledger
        self._store = store
        self._found: dict[str, BuildRecord] = {}

    def find(self, key: StageKey[OutputT]) -> Recorded[OutputT] | None:
        """What is recorded under a key, or None if the stage has to be run (again)."""
        record = self._record(key.digest)
        if record is None:
            return None
        return Recorded(key.output.model_validate(record.output), record.finished_at)

    @property
    def used(self) -> frozenset[str]:
        """Keys of all records that were found so far."""
        return frozenset(self._found)

    def has(self, digest: Digest) -> bool:
        """Whether a blob is in the store."""
        return self._store.has(digest)

    def read_bytes(self, digest: Digest) -> bytes:
        """A blob that an output names."""
        return self._store.read_bytes(digest)

    def output(self, key: StageKey[OutputT]) -> OutputT | None:
        """The recorded output of a key, or None if the stage has to be run (again)."""
        found = self.find(key)
        return None if found is None else found.output

    def _record(self, key: str) -> BuildRecord | None:
        if key in self._found:
            return self._found[key]
        record = self._ledger.find_stage(key)
        if record is None or not all(self._store.has(digest) for digest in blobs_of(record.output)):
            return None
        self._found[key] = record
        return record
