import json
import logging
import socket
import time
from contextlib import closing, suppress

import httpx
import pytest

from serving.http.connection import ConnectionLimits
from tests.serving.support import running

QUICK = ConnectionLimits(connections=40, idle_s=0.5, keep_alive_s=1, body_s=0.5, stalled_s=0.5)
BODY = b'{"model": "tiny", "prompt": "x", "max_tokens": 1}'
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def quick(session, tokenizer):
    with running(session, tokenizer, connections=QUICK) as (url, service):
        yield url, service


def connect(url, data=b""):
    opened = socket.create_connection(("127.0.0.1", httpx.URL(url).port), timeout=20)
    if data:
        opened.sendall(data)
    return opened


def posted(body, headers=b""):
    return HEAD + headers + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)


def read_all(opened):
    found = b""
    with suppress(ConnectionError):
        while part := opened.recv(1 << 16):
            found += part
    return found


def exchange(url, data):
    with closing(connect(url, data)) as opened:
        return read_all(opened)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"GET /healthz HTT",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: ",
        HEAD + b"Content-Length: 1000\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    ],
)
def test_a_request_that_never_ends_is_closed(quick, data):
    assert exchange(quick[0], data) == b""


def test_a_request_that_comes_drop_by_drop_is_closed_too(quick):
    with closing(connect(quick[0], HEAD + b"X-Long: ")) as opened, pytest.raises(ConnectionError):
        drip(opened, b"y" * 1000)


def drip(opened, data):
    for byte in data:
        opened.sendall(bytes([byte]))
        time.sleep(0.02)


def test_an_idle_connection_is_closed_after_its_answer(quick):
    assert b"200 OK" in exchange(quick[0], b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")


def test_health_is_answered_beside_more_waiting_connections_than_there_may_be(quick):
    url, _ = quick
    begun = [b"", HEAD + b"Content-Length: 1000\r\n\r\n{", b"GET / HTTP/1.1\r\nX:"]
    waiting = [connect(url, begun[number % 3]) for number in range(QUICK.connections + 30)]
    for _ in range(5):
        assert httpx.get(f"{url}/healthz", timeout=10).status_code == 200
    for opened in waiting:
        opened.close()


def test_running_requests_are_not_closed_for_new_connections(quick, session):
    url, service = quick
    session.gate.clear()
    body = json.dumps({"model": "tiny", "prompt": "x", "max_tokens": 2, "ignore_eos": True}).encode()
    running_one = connect(
        url, HEAD + b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    )
    while not service.engine.stats().running:
        time.sleep(0.01)
    others = [connect(url) for _ in range(QUICK.connections + 10)]
    session.gate.set()
    assert read_all(running_one).startswith(b"HTTP/1.1 200")
    for opened in (running_one, *others):
        opened.close()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40000 + b"\r\n\r\n", b"431"),
        (
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
            + b"".join(b"X%d: y\r\n" % n for n in range(200))
            + b"\r\n",
            b"431",
        ),
        (b"GET /healthz HTTP/9.9\r\nHost: localhost\r\n\r\n", b"505"),
        (HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n2\r\n{}\r\n0\r\n\r\n", b"400"),
        (HEAD + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n{}", b"400"),
        (HEAD + b"Transfer-Encoding: gzip\r\n\r\n{}", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\r\n\r\n", b"400"),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
    ],
)
def test_what_is_not_plain_http_is_refused(quick, data, status):
    assert exchange(quick[0], data).split(b" ", 2)[1] == status


def test_a_damaged_body_behind_an_answer_closes_the_connection_and_logs_nothing(quick, caplog):
    bad = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with caplog.at_level(logging.ERROR), closing(connect(quick[0], bad)) as opened:
        assert b"404" in opened.recv(1 << 16)
        opened.sendall(b"ZZ\r\nno chunk\r\n")
        read_all(opened)
        assert httpx.get(f"{quick[0]}/healthz").status_code == 200
    assert caplog.records == []


def test_a_caller_who_hangs_up_is_neither_an_error_nor_in_the_log(quick, caplog):
    url, service = quick
    before = server_errors(url)
    with caplog.at_level(logging.WARNING):
        for data in (
            b"GET /hea",
            HEAD + b"Content-Length: 1000\r\n\r\n{",
            posted(BODY),
            BODY,
        ):
            connect(url, data).close()
        stream = json.dumps(
            {"model": "tiny", "prompt": "x", "max_tokens": 200, "stream": True, "ignore_eos": True}
        ).encode()
        with closing(connect(url, posted(stream))) as opened:
            opened.recv(100)
        while service.engine.stats().running:
            time.sleep(0.01)
        assert httpx.get(f"{url}/healthz").status_code == 200
    assert caplog.records == []
    assert server_errors(url) == before


def server_errors(url):
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return [line for line in lines if line.startswith("rung_requests_total") and 'status="5' in line]


def test_the_limit_on_open_files_is_raised_for_connections():
    assert ConnectionLimits(connections=8).fitting() == 8
