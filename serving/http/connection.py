"""Connections with limits: uvicorn's own HTTP/1.1 protocol, with deadlines and a bound on their number.

uvicorn limits the size of heads and the idle time after an answer. It has no deadline for a request that
never comes or never ends, none for a caller who stops reading, and its `limit_concurrency` counts connections
that ask nothing, so that idle ones would shut out health checks. Those limits are added here, at the points
where uvicorn is told of a connection; the protocol is uvicorn's.
"""

from __future__ import annotations

import asyncio
import resource
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

SPARE_FILES = 128
"""Open files that a server needs beside its connections."""


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a connection may take."""

    connections: int = 1024
    """Connections at once. One more closes the one that has waited longest for the rest of its request."""
    idle_s: float = 15.0
    """From the connection, or the first byte of a further request, to the end of the request's head."""
    keep_alive_s: int = 5
    """From an answer to the first byte of the next request."""
    body_s: float = 30.0
    """From the end of the head to the end of the body."""
    stalled_s: float = 60.0
    """How long a caller may read nothing of an answer that waits to be sent."""
    head_bytes: int = 32 << 10
    """Request line and headers."""
    headers: int = 100
    """Headers of a request."""

    def fitting(self) -> int:
        """Connections that this process's limit on open files has room for, raised as far as allowed."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self.connections + SPARE_FILES
        if soft != resource.RLIM_INFINITY and soft < wanted:
            soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            return max(16, min(self.connections, soft - SPARE_FILES))
        return self.connections


class Connection(H11Protocol):
    """One connection to a caller.

    Args:
        config: See uvicorn.
        server_state: See uvicorn.
        app_state: See uvicorn.
        limits: Its limits.
        most: Connections at once.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],  # Any: uvicorn's own signature
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        limits: ConnectionLimits,
        most: int,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._limits = limits
        self._most = most
        self._since = self.loop.time()
        self._deadline: asyncio.TimerHandle | None = None
        self._awaited: object = None
        """What the deadline is for."""
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Make room for a connection, and expect its first request."""
        super().connection_made(transport)
        if len(self.connections) > self._most and not self._make_room():
            self.transport.abort()
            return
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget its deadlines."""
        self._cancel_deadline()
        self.resume_writing()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes of a request."""
        super().data_received(data)
        self._expect()

    def on_response_complete(self) -> None:
        """Expect the next request."""
        super().on_response_complete()
        self._since = self.loop.time()
        self._expect()

    def pause_writing(self) -> None:
        """The caller does not read as fast as it is answered."""
        super().pause_writing()
        self._stalled = self._stalled or self.loop.call_later(self._limits.stalled_s, self.transport.abort)

    def resume_writing(self) -> None:
        """The caller reads again."""
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def timeout_keep_alive_handler(self) -> None:
        """No further request came."""
        with suppress(h11.LocalProtocolError):
            super().timeout_keep_alive_handler()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless an answer has begun."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # its application writes no more into this connection
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.close()

    @property
    def _is_waiting(self) -> bool:
        """Whether the rest of a request is yet to come."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _make_room(self) -> bool:
        """Close the connection that has waited longest; whether there was one."""
        waiting = [one for one in self.connections if isinstance(one, Connection) and one._is_waiting]
        oldest = min((one for one in waiting if one is not self), key=lambda one: one._since, default=None)
        if oldest is None:
            return False
        self.connections.discard(oldest)
        oldest.transport.abort()
        return True

    def _expect(self) -> None:
        """Set the deadline for what is yet to come of a request."""
        awaited: object = None
        seconds = 0.0
        if self.conn.their_state is h11.SEND_BODY:
            awaited, seconds = self.cycle, self._limits.body_s
        elif self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            awaited, seconds = h11.IDLE, self._limits.idle_s
        if awaited is self._awaited and self._deadline is not None:
            return
        self._cancel_deadline()
        if awaited is not None and not self.transport.is_closing():
            self._awaited = awaited
            self._deadline = self.loop.call_later(seconds, self._too_late)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._awaited = None

    def _too_late(self) -> None:
        """End the connection without an answer, as nginx does: nobody may be there to read it."""
        self._deadline = None
        self.transport.close()
        self.loop.call_later(1.0, self.transport.abort)
