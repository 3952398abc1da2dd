"""The server's process: a socket, the event loop, and an end that finishes what was begun."""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI

from registry.errors import ConfigurationError
from serving.contract.terms import plain_headers
from serving.http.acceptor import Acceptor
from serving.http.access import Access
from serving.http.app import create_app
from serving.http.connection import Connection, ConnectionLimits
from serving.http.current import Current
from serving.http.reload import Reload, Reloads
from serving.http.service import Service

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8421
BACKLOG = 2048


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Base URL; clients append `/v1`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def open_socket(*, host: str, port: int) -> socket.socket:
    """A bound socket, before anything slow is done. Port 0 takes a free one.

    Raises:
        ConfigurationError: The address cannot be had.
    """
    if not 0 <= port <= 65535:
        raise ConfigurationError(f"port {port} does not exist", hint="give `--port` a number from 0 to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on `{host}`: {error.strerror}", hint="give `--address` an address of this machine"
        ) from error
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise _cannot_listen(host, port, error) from error
    return opened


def serve(
    service: Service,
    listening: socket.socket,
    *,
    grace_s: float = 30.0,
    on_ready: Callable[[Address], None] | None = None,
    stop: threading.Event | None = None,
    reload: Reload | None = None,
    hosts: tuple[str, ...] = (),
    limits: ConnectionLimits | None = None,
) -> None:
    """Answer until SIGTERM or SIGINT, then finish the running requests and return.

    A second signal ends the running requests too.

    Args:
        service: What it answers for at first; closed at the end.
        listening: From `open_socket`; closed at the end.
        grace_s: Time that running requests have to end.
        on_ready: Called once the server answers; None: one line on stderr.
        stop: Ends it as a signal does; for a server in a thread, where no signal arrives.
        reload: How to get another node, when that is asked for; None: there is no reload.
        hosts: Names that it answers to beside those of loopback; without any, one that is not on loopback
            answers to all.
        limits: Of its connections.
    """
    host, port = listening.getsockname()[:2]
    address = Address(host=host, port=port)
    current = Current(service)
    reloads = None if reload is None else Reloads(reload, current)
    access = Access.of(host, hosts=hosts)
    limits = limits or ConnectionLimits()
    most = limits.fitting()
    app = create_app(current, reloads=reloads, access=access)
    config = _config(app, grace_s=grace_s, limits=limits, most=most)
    front = partial(
        Acceptor,
        listening,
        state=lambda: current.service.status,
        headers=lambda: plain_headers(current.service.promise),
        hosts=access.hosts,
        limits=limits,
        most=most,
    )
    server = _Server(
        config,
        front=front,
        on_ready=lambda: (on_ready or print_ready)(address),
        stop=stop,
        reloads=reloads,
    )
    with suppress(KeyboardInterrupt), _quiet_signals():
        try:
            server.run(sockets=[listening])
        finally:
            listening.close()
            current.close()


def print_ready(address: Address) -> None:
    """Say on stderr where the server answers."""
    print(f"ready: {address.url}/v1", file=sys.stderr, flush=True)  # noqa: T201  the line that callers wait for


class _Server(uvicorn.Server):
    def __init__(
        self,
        config: uvicorn.Config,
        *,
        front: Callable[[Callable[[], asyncio.Protocol]], Acceptor],
        on_ready: Callable[[], None],
        stop: threading.Event | None,
        reloads: Reloads | None,
    ) -> None:
        super().__init__(config)
        self._front = front
        self._on_ready = on_ready
        self._stop = stop
        self._reloads = reloads

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to end; a reload that was asked for is begun."""
        if self._reloads is not None:
            self._reloads.tick()
        self._acceptor.tell()
        if self._stop is not None and self._stop.is_set():
            self.should_exit = True
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer; connections come from the front alone."""
        await super().startup(sockets=[])
        self._acceptor = self._front(self._connection)
        self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept no more, and let running requests end."""
        await self._acceptor.close()
        await super().shutdown(sockets=sockets)

    def _connection(self) -> asyncio.Protocol:
        connection = cast("Callable[..., asyncio.Protocol]", self.config.http_protocol_class)  # …: uvicorn's
        return connection(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


class _quiet_signals:  # noqa: N801  used as a function
    """After its own shutdown uvicorn raises the signal again for whoever was there before: nobody is here."""

    def __enter__(self) -> None:
        here = threading.current_thread() is threading.main_thread()  # signals reach no other
        caught = (signal.SIGTERM, signal.SIGINT) if here else ()
        self._before = {one: signal.signal(one, _ignore) for one in caught}

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            signal.signal(one, handler)


def _ignore(_number: int, _frame: FrameType | None) -> None:
    return None


def _config(app: FastAPI, *, grace_s: float, limits: ConnectionLimits, most: int) -> uvicorn.Config:
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # its warnings are of callers who have hung up
    connection = partial(Connection, limits=limits, most=most)
    return uvicorn.Config(
        app,
        http=cast("type[asyncio.Protocol]", connection),  # uvicorn only calls it
        h11_max_incomplete_event_size=limits.head_bytes,
        timeout_keep_alive=limits.keep_alive_s,
        log_level="error",  # its warnings are of what callers sent
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(grace_s)),
        ws="none",
        lifespan="off",
    )


def _cannot_listen(host: str, port: int, error: OSError) -> ConfigurationError:
    if error.errno == errno.EADDRINUSE:
        hint = "stop what listens there, or give another `--port` (0 takes a free one)"
        return ConfigurationError(f"port {port} on `{host}` is in use", hint=hint)
    if error.errno == errno.EACCES:
        hint = "give a `--port` above 1023, or run with the right to take this one"
        return ConfigurationError(f"may not listen on port {port} of `{host}`", hint=hint)
    return ConfigurationError(
        f"cannot listen on port {port} of `{host}`: {error.strerror}",
        hint="give `--address` an address of this machine",
    )
