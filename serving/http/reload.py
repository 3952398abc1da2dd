"""Reload: another release in the place of the one that is served, without a lost request.

The new artifact is loaded beside the old one, in a thread. Only when it is ready do new requests go to it;
what is being answered ends on the old one (`serving/http/current.py`). Whatever keeps the new release from
being served, the old one goes on, and log, status and operator are told why.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from types import FrameType
from typing import Literal

from registry.errors import RungError
from serving.contract.promise import Promise
from serving.http.current import Current
from serving.http.service import create_service
from serving.node.load import LoadedModel
from serving.node.open import Node
from serving.node.running import Problem, ReloadOutcome

LOG = logging.getLogger("rung.serving")


@dataclass(frozen=True, slots=True)
class Reload:
    """How a server reloads."""

    open: Callable[[Node, Sequence[LoadedModel]], Node]
    """The node to change to: given the one that serves and all models in memory, which stay there meanwhile.
    The given node itself: there is nothing new. Raises what keeps it from being opened."""
    wanted: threading.Event = field(default_factory=threading.Event)
    """Set by whoever wants a reload, from any thread or a signal's handler."""
    tell: Callable[[Promise, int, ReloadOutcome], None] = lambda *_: None
    """Called with the promise of what serves, the number of the reload and what became of it so far."""


def on_hangup() -> threading.Event:
    """An event that SIGHUP sets from now on."""
    wanted = threading.Event()

    def hang_up(_number: int, _frame: FrameType | None) -> None:
        wanted.set()

    signal.signal(signal.SIGHUP, hang_up)
    return wanted


class Reloads:
    """The reloads of one server, one after the other. Used by the event loop's thread alone."""

    def __init__(self, reload: Reload, current: Current) -> None:
        self._reload = reload
        self._current = current
        self._number = 0
        self._running = False
        self.last: ReloadOutcome | None = None
        """What became of the last one; None: none was asked for."""

    def tick(self) -> None:
        """Begin a reload if one is wanted and none is running."""
        if self._running or not self._reload.wanted.is_set():
            return
        self._reload.wanted.clear()
        self._running = True
        self._number += 1
        self._note("running")
        loop, node, models = asyncio.get_running_loop(), self._current.service.node, self._current.models
        work = partial(self._load, loop, node, models)
        # A daemon: the end of the server does not wait for a model to be loaded.
        threading.Thread(target=work, name="rung-reload", daemon=True).start()

    def _load(self, loop: asyncio.AbstractEventLoop, node: Node, models: Sequence[LoadedModel]) -> None:
        found: Node | Exception
        try:
            found = self._reload.open(node, models)
        except Exception as error:  # noqa: BLE001  whatever it is, the server goes on and says so
            found = error
        with suppress(RuntimeError):  # the loop is closed: the server has ended
            loop.call_soon_threadsafe(self._end, node, found)

    def _end(self, before: Node, found: Node | Exception) -> None:
        self._running = False
        if isinstance(found, Node) and found is not before:
            try:
                service = self._current.service
                after = create_service(found, max_wait_s=service.max_wait_s, before=self._current.services)
            except Exception as error:  # noqa: BLE001  as above
                found = error
            else:
                self._current.change(after)
        if isinstance(found, Exception):
            self._note("refused", found)
        else:
            self._note("unchanged" if found is before else "done")

    def _note(
        self, outcome: Literal["running", "done", "unchanged", "refused"], error: Exception | None = None
    ) -> None:
        service = self._current.service
        name = service.promise.release or ""
        self.last = ReloadOutcome(
            outcome=outcome,
            at=datetime.now(UTC),
            release=name,
            error=None if error is None else _problem(error),
        )
        if self.last.error is not None:
            unexpected = None if isinstance(error, RungError) else error
            what = f"{self.last.error.message}; hint: {self.last.error.hint}"
            LOG.error("reload refused, release %s goes on: %s", name, what, exc_info=unexpected)
        elif outcome != "running":
            LOG.warning("reload %s: serving release %s, artifact %s", outcome, name, service.promise.artifact)
        if outcome != "running":
            service.metrics.reloads.labels(outcome=outcome).inc()
        self._reload.tell(service.promise, self._number, self.last)


def _problem(error: Exception) -> Problem:
    if isinstance(error, RungError):
        return Problem(**error.to_json(), exit_code=error.exit_code)
    return Problem(
        code="internal",
        message=f"{type(error).__name__}: {error}",
        hint="see the server's log, and report this",
        exit_code=1,
    )
