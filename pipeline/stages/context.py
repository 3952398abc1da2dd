"""What a worker has for its request: the store, a scratch directory, threads and the reporter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.stages.reporter import Reporter
from registry.digest import Digest
from registry.store import Store

LOG_NAME = "log.txt"
"""File in the scratch directory that the worker's standard output and error go to."""
UNFINISHED = "unfinished-"
"""Start of the names of directories, beside those for requests, that outlive a killed worker."""


@dataclass(frozen=True, slots=True)
class WorkerContext:
    """What a worker has for its request: the store, a scratch directory, threads and the reporter."""

    store: Store
    scratch: Path
    """A directory for this request alone, removed by the parent."""
    threads: int
    report: Reporter

    @property
    def log(self) -> Path:
        """What was printed so far."""
        return self.scratch / LOG_NAME

    def unfinished(self, key: Digest) -> Path:
        """A directory for parts of a stage's work, which the next worker with the same key finds again.

        The worker removes it when the stage is finished; one that nobody comes back to, the next build does.
        """
        directory = self.scratch.parent / f"{UNFINISHED}{key.removeprefix('sha256:')[:32]}"
        directory.mkdir(exist_ok=True)
        return directory
