"""The process that answers probes and hands connections over, and the server's end of it."""

import asyncio
import json
import os
import signal
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress

import httpx
import pytest

from serving.http import front
from serving.http.acceptor import Acceptor
from serving.http.connection import ConnectionLimits
from serving.http.front import Front
from tests.serving.support import running

PROBE = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
READY = PROBE.replace(b"healthz", b"readyz")


class Echo(asyncio.Protocol):
    """Says what it was sent, and ends."""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(b"handed over: " + data)
        self.transport.close()


def make_listening():
    opened = socket.socket()
    opened.bind(("127.0.0.1", 0))
    opened.listen(100)
    return opened


def make_acceptor(listening, *, state=lambda: "ready", hosts=frozenset(), limits=None):
    limits = limits or ConnectionLimits()
    return Acceptor(
        listening,
        Echo,
        state=state,
        headers=lambda: {"X-Rung-Tier": "1"},
        hosts=hosts,
        limits=limits,
        most=limits.connections,
    )


def exchange(listening, data):
    found = b""
    with (
        closing(socket.create_connection(listening.getsockname(), timeout=20)) as opened,
        suppress(ConnectionError),
    ):
        opened.sendall(data)
        while part := opened.recv(1 << 16):
            found += part
    return found


def status_and_body(answer):
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), json.loads(body)["status"]


def accepting(test, **options):
    """Run a test inside an event loop whose connections come from a front."""

    async def run():
        with make_listening() as listening:
            acceptor = make_acceptor(listening, **options)
            try:
                await test(listening, acceptor)
            finally:
                await acceptor.close()

    asyncio.run(run())


def test_a_probe_is_answered_while_the_event_loop_does_something_else():
    async def test(listening, _):
        answer = exchange(listening, PROBE)  # not awaited: the loop stands still until it is here
        assert status_and_body(answer) == (200, "alive")
        assert b"\r\nX-Rung-Tier: 1\r\n" in answer

    accepting(test)


@pytest.mark.parametrize(
    "headers", [b"Host: x\r\n", b"Host: [::1]:80\r\n", b"Host: localhost\r\nContent-Length: 0\r\n"]
)
def test_probes_may_have_what_their_senders_add(headers):
    async def test(listening, _):
        probe = b"GET /healthz HTTP/1.1\r\n" + headers + b"Connection: close\r\n\r\n"
        assert status_and_body(exchange(listening, probe)) == (200, "alive")

    accepting(test)


def test_probes_share_a_connection():
    async def test(listening, _):
        kept = PROBE.replace(b"Connection: close\r\n", b"")
        assert exchange(listening, kept + kept + PROBE).count(b"HTTP/1.1 200 OK") == 3

    accepting(test)


@pytest.mark.parametrize(
    ("state", "health", "ready"),
    [
        ("ready", (200, "alive"), (200, "ready")),
        ("expired", (200, "alive"), (503, "expired")),
        ("stopped", (503, "stopped"), (503, "stopped")),
    ],
)
def test_probes_say_how_the_server_is(state, health, ready):
    async def test(listening, _):
        assert status_and_body(exchange(listening, PROBE)) == health
        assert status_and_body(exchange(listening, READY)) == ready

    accepting(test, state=lambda: state)


@pytest.mark.parametrize(
    "data",
    [
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"G",
        PROBE[:-2],
        PROBE.replace(b"localhost", b"evil.example"),
        PROBE.replace(b"Host: localhost\r\n", b""),
        PROBE.replace(b"Connection: close", b"Origin: http://evil.example"),
        PROBE.replace(b"Connection: close", b"Host: localhost"),
        PROBE.replace(b"Connection: close", b"Content-Length: 5"),
        PROBE.replace(b"HTTP/1.1", b"HTTP/9.9"),
        PROBE.replace(b"Connection: close", b"X: \xff"),
        PROBE.replace(b"Connection: close", b"X: " + b"y" * 9000),
    ],
)
def test_all_but_a_plain_probe_is_handed_over_as_it_came(data):
    async def test(listening, _):
        answer = await asyncio.to_thread(exchange, listening, data)
        assert answer.startswith(b"handed over: " + data[:4096])

    accepting(test)


def test_a_front_that_is_killed_is_replaced(caplog):
    async def test(listening, acceptor):
        os.kill(acceptor._process.pid, signal.SIGKILL)
        for _ in range(3):
            assert status_and_body(await asyncio.to_thread(exchange, listening, PROBE)) == (200, "alive")
        assert (await asyncio.to_thread(exchange, listening, b"x")) == b"handed over: x"

    accepting(test)
    assert "has ended with" in caplog.text


def test_what_has_come_before_the_end_is_taken_still():
    async def test(listening):
        acceptor = make_acceptor(listening)
        with closing(socket.create_connection(listening.getsockname(), timeout=20)) as opened:
            opened.sendall(b"just in time")
            await acceptor.close()
            assert await asyncio.to_thread(opened.recv, 100) == b"handed over: just in time"

    with make_listening() as listening:
        asyncio.run(test(listening))


@contextmanager
def front_in_a_thread(listening, **options):
    ours, its = socket.socketpair()
    given = {"headers": "", "hosts": None, "most": 4, "idle_s": 20.0, "keep_alive_s": 20.0} | options
    with ours, its:
        thread = threading.Thread(target=Front(listening, its, **given).run)
        thread.start()
        yield ours
        ours.shutdown(socket.SHUT_WR)
        thread.join(20)
        assert not thread.is_alive()


def test_a_server_that_says_nothing_for_long_is_stalled(monkeypatch):
    monkeypatch.setattr(front, "STALLED_S", 0.0)
    with make_listening() as listening, front_in_a_thread(listening):
        assert status_and_body(exchange(listening, PROBE)) == (503, "stalled")


def test_the_connection_that_has_waited_longest_makes_room():
    with make_listening() as listening, front_in_a_thread(listening, most=4):
        waiting = [socket.create_connection(listening.getsockname(), timeout=20) for _ in range(5)]
        assert waiting[0].recv(1) == b""
        assert status_and_body(exchange(listening, PROBE)) == (200, "alive")
        for opened in waiting:
            opened.close()


def test_a_connection_that_says_nothing_is_closed():
    with (
        make_listening() as listening,
        front_in_a_thread(listening, idle_s=0.1),
        closing(socket.create_connection(listening.getsockname(), timeout=20)) as opened,
    ):
        assert opened.recv(1) == b""


def test_connections_that_the_server_does_not_take_wait_for_it():
    with make_listening() as listening, front_in_a_thread(listening, most=2000) as server:
        asked = [socket.create_connection(listening.getsockname(), timeout=20) for _ in range(700)]
        for opened in asked:
            opened.sendall(b"x")
        assert status_and_body(exchange(listening, PROBE)) == (200, "alive")
        taken = 0
        while taken < len(asked):
            _, numbers, _, _ = socket.recv_fds(server, 1, 1)
            for number in numbers:
                os.close(number)
                taken += 1
        for opened in asked:
            opened.close()


def test_health_is_that_of_the_engine(session, tokenizer):
    with running(session, tokenizer) as (url, service):
        assert httpx.get(f"{url}/healthz").json() == {"status": "alive"}
        service.engine.close()
        until = time.monotonic() + 20
        while httpx.get(f"{url}/healthz").status_code != 503 and time.monotonic() < until:
            time.sleep(0.05)
        assert httpx.get(f"{url}/healthz").json() == {"status": "stopped"}
        assert httpx.get(f"{url}/readyz").json() == {"status": "stopped"}
        assert httpx.head(f"{url}/healthz").status_code in (405, 503), "the server itself says nothing else"


def test_a_front_answers_with_the_headers_it_was_told_last_however_they_arrive():
    with make_listening() as listening, front_in_a_thread(listening, headers="X-One: 1\r\n") as ours:
        assert b"X-One: 1\r\n" in exchange(listening, PROBE)
        for part in (b"r\x02X-Two: 2\r\n\x03rr\x02X-Thr", b"ee: 3\r\n\x03x"):
            ours.send(part)
        answer = exchange(listening, READY)
        while b"X-Three: 3\r\n" not in answer:
            answer = exchange(listening, READY)
        assert status_and_body(answer) == (503, "expired")
        assert b"X-Two" not in answer
