"""The observer of a build: records each stage's output the moment it arrives, and shows progress."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Protocol, assert_never

from matrices.ledger.build_records import BuildRecord, blobs_of
from matrices.ledger.ledger import Ledger
from pipeline.build.graph import BuildNode
from pipeline.build.records import HoldsBlobs
from pipeline.executors.interface import Failure
from pipeline.stages.events import ErrorEvent, Event, FinishEvent, OutputEvent, ProgressEvent
from pipeline.workspace.derive import record_difference
from registry.errors import CorruptError, StorageFullError

WORKSPACE_ERRORS: dict[str, type[StorageFullError | CorruptError]] = {
    StorageFullError.code: StorageFullError,
    CorruptError.code: CorruptError,
}
"""Errors of a worker that no other work would be spared; they end the build."""


class Display(Protocol):
    """Shows a build to a person."""

    def note(self, text: str) -> None:
        """Something to know before it begins."""
        ...

    def total(self, count: int) -> None:
        """How many nodes there are."""
        ...

    def started(self, name: str) -> None:
        """A node's work began."""
        ...

    def progress(self, name: str, text: str) -> None:
        """What a node's worker does now."""
        ...

    def ended(self, name: str, failure: Failure | None, *, ran: bool) -> None:
        """A node is done, failed or blocked."""
        ...


class Recorder:
    """Records outputs in the database as they arrive, and tells the display.

    Args:
        ledger: The writer of the database.
        display: Shows progress.
        store: Has the blobs of outputs; a record whose blobs are gone is replaced.
    """

    def __init__(self, ledger: Ledger, display: Display, *, store: HoldsBlobs) -> None:
        self._ledger = ledger
        self._display = display
        self._store = store
        self.ran: list[str] = []
        """Nodes whose work was run and succeeded."""

    def started(self, node: BuildNode) -> None:
        """Work of a node began."""
        self._display.started(node.name)

    def event(self, node: BuildNode, event: Event) -> None:
        """A worker sent an event.

        Raises:
            StorageFullError: The worker had no space left.
            CorruptError: A blob of the store is damaged.
        """
        match event:
            case OutputEvent():
                now = datetime.now(UTC)
                self._forget_useless(event.key)
                self._ledger.put_stage(
                    BuildRecord(
                        key=event.key,
                        stage=event.stage,
                        output=event.output,
                        seconds=event.seconds,
                        started_at=now - timedelta(seconds=event.seconds),
                        finished_at=now,
                        peak_memory_bytes=event.peak_memory_bytes,
                    )
                )
            case ProgressEvent():
                self._display.progress(node.name, event.text)
            case ErrorEvent():
                if (kind := WORKSPACE_ERRORS.get(event.code)) is not None:
                    # Not this cell's fault: nothing else can be built either.
                    raise kind(event.message, hint=event.hint)
            case FinishEvent():
                pass
            case _:
                assert_never(event)

    def ended(self, node: BuildNode, failure: Failure | None, *, ran: bool) -> None:
        """A node is done, failed, or was found done (`ran` False)."""
        if ran and failure is None:
            self.ran.append(node.name)
        self._display.ended(node.name, failure, ran=ran)

    def _forget_useless(self, key: str) -> None:
        """Drop an earlier record of the stage whose blobs are gone or say something else; others are kept."""
        earlier = self._ledger.find_stage(key)
        if earlier is None:
            return
        lost = not all(self._store.has(digest) for digest in blobs_of(earlier.output))
        if lost or record_difference(earlier, store=self._store) is not None:
            self._ledger.forget_stages([key])
