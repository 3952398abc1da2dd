"""What a worker has for its request: the store, a scratch directory, threads and the reporter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.stages.reporter import Reporter
from registry.store import Store

LOG_NAME = "log.txt"
"""File in the scratch directory that the worker's standard output and error go to."""


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
