"""The front of a server: accepts its connections, answers health probes, hands over everything else.

It runs as a process beside the server (`serving/http/acceptor.py` starts it), so that a probe waits for no
lock that the engine, the event loop or a tokenizer holds, the interpreter's included. It reads nothing of
what it hands over: it looks at the first bytes of a connection and answers only the plain form of a probe.
Anything else, down to a header that it does not expect, is the server's.

The server says ten times a second how it is, over the socket through which it gets its connections, and new
headers for the answers between the bytes 2 and 3. The end of that socket is the end of this process.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import socket
import sys
import time

STALLED_S = 30.0
"""After so long without a word from the server its event loop is stuck, or the machine is."""
SWEEP_S = 0.25
"""How often deadlines are looked at."""
HEAD_BYTES = 4096
"""Of the first bytes of a connection that are looked at."""
STATES = {b"r": "ready", b"x": "expired", b"s": "stopped"}
PROBE = re.compile(
    rb"GET /(healthz|readyz) HTTP/1\.([01])\r\n((?:[A-Za-z0-9_-]+:[\t\x20-\x7e]*\r\n){0,30})\r\n"
)
SERVERS_OWN = {b"transfer-encoding", b"origin", b"expect", b"upgrade"}
"""Headers that make a request more than a probe."""


class Front:
    """The connections that have not said yet what they want.

    Args:
        listening: The server's socket.
        server: Takes connections, and says how the server is.
        headers: That go on every answer.
        hosts: Names that are answered; None: all. Others are for the server to refuse.
        most: Connections that may wait; one more closes the one that has waited longest.
        idle_s: How long one may wait.
        keep_alive_s: How long one may wait after an answer.
    """

    def __init__(
        self,
        listening: socket.socket,
        server: socket.socket,
        *,
        headers: str,
        hosts: list[str] | None,
        most: int,
        idle_s: float,
        keep_alive_s: float,
    ) -> None:
        self._listening = listening
        self._server = server
        self._headers = headers.encode("latin-1")
        self._hosts = None if hosts is None else {host.encode() for host in hosts}
        self._most = most
        self._idle_s = idle_s
        self._keep_alive_s = keep_alive_s
        self._deadlines: dict[socket.socket, float] = {}
        self._held_back: list[socket.socket] = []
        """Connections for the server that its socket has no room for."""
        self._half_said = b""
        self._state = "ready"
        self._heard = time.monotonic()
        self._poll = select.poll()
        self._opened: dict[int, socket.socket] = {}

    def run(self) -> None:
        """Answer until the server ends."""
        for one in (self._listening, self._server):
            one.setblocking(False)
            self._poll.register(one, select.POLLIN)
        parent = os.getppid()
        swept = 0.0
        while self._is_served() and os.getppid() == parent:
            self._turn(SWEEP_S)
            if time.monotonic() - swept > SWEEP_S:
                swept = time.monotonic()
                self._sweep(swept)
        self._turn(0.0)  # what has come until now is the server's still
        self._turn(0.0)

    def _turn(self, wait_s: float) -> None:
        for number, _ in self._poll.poll(wait_s * 1000):
            if number == self._listening.fileno():
                self._accept()
            elif number in self._opened:
                self._look_at(self._opened[number])
        held, self._held_back = self._held_back, []
        for one in held:
            self._hand_over(one)

    def _is_served(self) -> bool:
        """Hear how the server is; False at its end."""
        try:
            said = self._server.recv(4096)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if said:
            self._hear(said)
        return bool(said)

    def _hear(self, said: bytes) -> None:
        self._half_said += said
        _, change, rest = self._half_said.rpartition(b"\x02")
        headers, whole, letters = rest.partition(b"\x03") if change else (b"", b"\x03", rest)
        if not whole:
            return
        if change:
            self._headers = headers
        if letters:
            self._state = STATES[letters[-1:]]
        self._half_said = b""
        self._heard = time.monotonic()

    def _accept(self) -> None:
        for _ in range(64):
            try:
                opened, _ = self._listening.accept()
            except BlockingIOError:
                return
            except ConnectionError:  # it hung up while it waited
                continue
            except OSError:  # no more files: room is made, or the next turn tries again
                if not self._close_oldest():
                    time.sleep(SWEEP_S)
                return
            opened.setblocking(False)
            self._deadlines[opened] = time.monotonic() + self._idle_s
            self._opened[opened.fileno()] = opened
            self._poll.register(opened, select.POLLIN)
            if len(self._deadlines) > self._most:
                self._close_oldest()

    def _look_at(self, opened: socket.socket) -> None:
        """Answer a probe; hand over, or close, anything else."""
        try:
            begun = opened.recv(HEAD_BYTES, socket.MSG_PEEK)
            found = PROBE.match(begun)
            if found is None or not self._is_probe(headers := _headers(found[3])):
                self._forget(opened)
                if begun:
                    self._hand_over(opened)
                else:
                    opened.close()
                return
            opened.recv(found.end())
            wanted = headers.get(b"connection", b"").lower()
            kept = found[2] == b"1" and wanted != b"close"
            opened.send(self._answer(found[1].decode(), kept=kept))
        except BlockingIOError:
            return
        except OSError:
            kept = False
        if kept:
            self._deadlines[opened] = time.monotonic() + self._keep_alive_s
        else:
            self._forget(opened)
            opened.close()

    def _is_probe(self, headers: dict[bytes, bytes]) -> bool:
        host = headers.get(b"host", b"")
        name = host.rpartition(b":")[0] if re.search(rb":[0-9]+$", host) else host
        # As `serving/http/access.py` has it; what is not known here is for the server to judge.
        known = self._hosts is None or name.lower() in self._hosts or re.fullmatch(rb"[\w-]+", name)
        empty = headers.get(b"content-length", b"0") == b"0"
        return bool(name and known and empty) and not SERVERS_OWN & headers.keys()

    def _answer(self, route: str, *, kept: bool) -> bytes:
        state = self._state if time.monotonic() - self._heard < STALLED_S else "stalled"
        if route == "healthz" and state in ("ready", "expired"):
            state = "alive"
        status = b"200 OK" if state in ("alive", "ready") else b"503 Service Unavailable"
        body = json.dumps({"status": state}, separators=(",", ":")).encode()
        date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()).encode()
        return (
            b"HTTP/1.1 %s\r\ndate: %s\r\ncontent-length: %d\r\ncontent-type: application/json\r\n%s%s\r\n%s"
            % (status, date, len(body), self._headers, b"" if kept else b"connection: close\r\n", body)
        )

    def _hand_over(self, opened: socket.socket) -> None:
        try:
            socket.send_fds(self._server, [b"c"], [opened.fileno()])
        except OSError as error:
            # A queue without room; otherwise the server has ended.
            if error.errno in (errno.EAGAIN, errno.ETOOMANYREFS) and len(self._held_back) < self._most:
                self._held_back.append(opened)
                return
        opened.close()

    def _forget(self, opened: socket.socket) -> None:
        self._poll.unregister(opened)
        del self._deadlines[opened], self._opened[opened.fileno()]

    def _close_oldest(self) -> bool:
        oldest = min(self._deadlines, key=self._deadlines.__getitem__, default=None)
        if oldest is not None:
            self._forget(oldest)
            oldest.close()
        return oldest is not None

    def _sweep(self, now: float) -> None:
        for one in [one for one, deadline in self._deadlines.items() if deadline < now]:
            self._forget(one)
            one.close()


def _headers(lines: bytes) -> dict[bytes, bytes]:
    """Headers by name in small letters; one that comes twice is as one that makes it no probe."""
    found: dict[bytes, bytes] = {}
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        if name.lower() in found:
            return {b"expect": b""}
        found[name.lower()] = value.strip()
    return found


def main() -> None:
    """Run with two inherited sockets, the options of `Front` as JSON, and header lines."""
    listening, server = (socket.socket(fileno=int(number)) for number in sys.argv[1:3])
    Front(listening, server, headers=sys.argv[4], **json.loads(sys.argv[3])).run()


if __name__ == "__main__":
    main()
