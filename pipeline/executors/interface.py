"""The contract of an executor: how a build runs a piece of work in isolation, on this machine or on others.

A worker that crashes, hangs or takes too much memory becomes a `Failure` with its log, never an exception.
`local.py` runs worker processes on this machine; `ray.py` runs them on the nodes of a Ray cluster.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pipeline.stages.events import Event
from pipeline.stages.order import Request


@dataclass(frozen=True, slots=True)
class Work:
    """One request for a worker."""

    label: str
    request: Request
    memory_bytes: int
    """Estimate of its peak, for admission."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a piece of work failed."""

    code: str
    """`timeout`, `memory`, `crash`, or the code of an error (`registry/errors.py`)."""
    message: str
    hint: str
    exit_code: int
    log: str | None = None
    """Digest of the log's blob."""


@dataclass(frozen=True, slots=True)
class Finished:
    """All of it was done."""


class Executor(Protocol):
    """What runs work."""

    def toolchain_version(self, name: str) -> str:
        """The version of a toolchain where its work would run.

        Raises:
            ToolchainMissingError: It is installed nowhere that this executor reaches.
        """
        ...

    def run(self, work: Work, *, on_event: Callable[[Event], None]) -> Finished | Failure:
        """Run one piece of work to its end; called from several threads at once.

        Args:
            work: What to do.
            on_event: Called with each event of the worker, in order, in the calling thread.
        """
        ...

    def stop(self) -> None:
        """Kill all running work; each `run` then returns a `Failure`."""
        ...
