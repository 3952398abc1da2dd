"""The current service: which one answers a request, and the change to another without a lost request.

A request has one service from its first byte to its last. After a change, new requests have the new service;
the old one is closed, and its memory given back, when its last request has ended.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from serving.http.service import Service
from serving.node.load import LoadedModel


@dataclass(slots=True, eq=False)
class _Held:
    service: Service
    requests: int = 0


class Current:
    """The service that answers, and earlier ones that still do. Used by the event loop's thread alone."""

    def __init__(self, service: Service) -> None:
        self._held = [_Held(service)]
        """In order of time: the last one takes new requests."""
        service.metrics.watch(service.engine, service.promise)

    @property
    def service(self) -> Service:
        """The one that takes new requests."""
        return self._held[-1].service

    @property
    def services(self) -> tuple[Service, ...]:
        """Every service that is still open, in order of time."""
        return tuple(each.service for each in self._held)

    @property
    def models(self) -> tuple[LoadedModel, ...]:
        """Every model that is still in memory."""
        return tuple(each.service.node.model for each in self._held)

    @contextmanager
    def request(self) -> Iterator[Service]:
        """The service of one request, which stays open until the request has ended."""
        held = self._held[-1]
        held.requests += 1
        try:
            yield held.service
        finally:
            held.requests -= 1
            self._drop_unused()

    def change(self, service: Service) -> None:
        """Let another service take all new requests; it may have the engine of one that is here."""
        self._held.append(_Held(service))
        service.metrics.watch(service.engine, service.promise)
        self._drop_unused()

    def close(self) -> None:
        """Answer nothing more."""
        for held in self._held:
            held.service.close()

    def _drop_unused(self) -> None:
        unused = [each for each in self._held[:-1] if not each.requests]
        self._held = [each for each in self._held if each not in unused]
        for each in unused:
            shared = any(other.service.engine is each.service.engine for other in self._held)
            # An engine ends after its running step, which nobody has to wait for.
            end = each.service.model.intake.close if shared else each.service.close
            threading.Thread(target=end, name="rung-close", daemon=True).start()
