"""Takes a server's connections from its front, the process that answers health probes.

See `serving/http/front.py`. A front that dies is started again: the socket that callers connect to is held
here as well, so that none of them is refused meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from serving.http.connection import ConnectionLimits

LOG = logging.getLogger("rung.serving")
SCRIPT = Path(__file__).with_name("front.py")
LETTERS = {"ready": b"r", "expired": b"x", "stopped": b"s"}
TAKEN_AT_ONCE = 64
"""Connections in one turn of the event loop."""
END_S = 5.0
"""What a front may take to end."""


class Acceptor:
    """The server's end of its front.

    Args:
        listening: What callers connect to.
        protocol: Makes the protocol of a connection.
        state: How the server is, one of `LETTERS`.
        headers: On every answer of the front, as they are now.
        hosts: Names that are answered; None: all.
        limits: Of connections.
        most: Connections that may wait in the front.
    """

    def __init__(
        self,
        listening: socket.socket,
        protocol: Callable[[], asyncio.Protocol],
        *,
        state: Callable[[], str],
        headers: Callable[[], Mapping[str, str]],
        hosts: frozenset[str] | None,
        limits: ConnectionLimits,
        most: int,
    ) -> None:
        self._listening = listening
        self._protocol = protocol
        self._state = state
        self._headers = headers
        self._told = self._header_lines()
        """Header lines that the front has."""
        self._options = json.dumps(
            {
                "hosts": None if hosts is None else sorted({*hosts, "localhost", "127.0.0.1", "[::1]"}),
                "most": most,
                "idle_s": limits.idle_s,
                "keep_alive_s": limits.keep_alive_s,
            }
        )
        self._loop = asyncio.get_running_loop()
        self._taking: set[asyncio.Task[object]] = set()
        self._ended = asyncio.Event()
        self._closing = False
        self._start()

    def tell(self) -> None:
        """Let the front know how the server is, and its headers if they are others now."""
        headers = self._header_lines()
        change = b"" if headers == self._told else b"\x02%s\x03" % headers.encode("latin-1")
        with suppress(BlockingIOError, ConnectionError):  # it is behind, or being replaced
            self._front.send(change + LETTERS[self._state()])
            self._told = headers

    async def close(self) -> None:
        """Accept no more; what was accepted is taken."""
        self._closing = True
        with suppress(OSError):
            self._front.shutdown(socket.SHUT_WR)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), END_S)
        self._loop.remove_reader(self._front)
        self._front.close()
        self._process.kill()
        self._process.wait()
        if self._taking:
            await asyncio.wait(self._taking)

    def _start(self) -> None:
        self._told = self._header_lines()
        self._front, others = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with others:
            inherited = (self._listening.fileno(), others.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SCRIPT), *map(str, inherited), self._options, self._told],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # the signals of a terminal are for the server
            )
        self._front.setblocking(False)
        self.tell()
        self._loop.add_reader(self._front, self._take)

    def _header_lines(self) -> str:
        return "".join(f"{name}: {value}\r\n" for name, value in self._headers().items())

    def _take(self) -> None:
        for _ in range(TAKEN_AT_ONCE):
            try:
                said, numbers, _, _ = socket.recv_fds(self._front, 1, 1)
            except BlockingIOError:
                return
            except ConnectionError:
                said, numbers = b"", []
            if not said:
                self._front_ended()
                return
            for number in numbers:
                opened = socket.socket(fileno=number)
                opened.setblocking(False)
                task = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, opened))
                self._taking.add(task)
                task.add_done_callback(self._taken)

    def _taken(self, task: asyncio.Task[object]) -> None:
        self._taking.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            LOG.debug("a connection was lost before it was taken: %s", error)

    def _front_ended(self) -> None:
        self._loop.remove_reader(self._front)
        if self._closing:
            self._ended.set()
            return
        LOG.error("the process that accepts connections has ended with %s", self._process.poll())
        self._front.close()
        self._process.kill()
        self._process.wait()
        self._loop.call_later(0.1, self._start)
