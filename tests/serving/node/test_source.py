import http.server
import threading
import time
from contextlib import contextmanager, suppress

import pytest

from registry.errors import CorruptError, RegistryError
from serving.contract.problems import InterruptedFetchError, TooSlowError
from serving.node import source
from serving.node.source import Deadline, HttpSource, read_small


@contextmanager
def answering(answer):
    """A server on loopback that answers every GET by `answer(handler)`; gives its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with suppress(OSError):
                answer(self)
            self.close_connection = True

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def read(url, *, limit_bytes=1 << 20):
    return read_small(HttpSource(url), "x", limit_bytes=limit_bytes, what="release", deadline=Deadline.of())


def redirecting(to):
    def answer(handler):
        if handler.path == "/there":
            handler.send_response(200)
            handler.end_headers()
            handler.wfile.write(b"ok")
            return
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.end_headers()

    return answer


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "ftp://127.0.0.1/x", "https://127.0.0.1/x", "data:,x", "//["]
)
def test_a_redirect_to_another_scheme_is_not_followed(to):
    with answering(redirecting(to)) as url, pytest.raises(RegistryError):
        read(url)


def test_a_redirect_within_a_scheme_is_followed_and_a_circle_is_not():
    with answering(redirecting("/there")) as url:
        assert read(url) == b"ok"
    with answering(redirecting("/x")) as url, pytest.raises(RegistryError):
        read(url)


def test_a_public_source_cannot_send_a_node_into_its_own_network(monkeypatch):
    monkeypatch.setattr(source, "_is_public", lambda host: host == "127.0.0.1")
    refused = pytest.raises(RegistryError, match="from a public to a private address")
    with answering(redirecting("http://localhost:1/admin")) as url, refused:
        read(url)


def test_public_addresses_are_told_from_private_ones():
    assert source._is_public("9.9.9.9")
    for host in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "::1", "fe80::1", None, ""):
        assert not source._is_public(host)


def test_a_source_that_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(source, "PATIENCE_S", 0.5)

    def drip(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"x")
            time.sleep(0.05)

    with answering(drip) as url, pytest.raises(TooSlowError):
        read(url)


def test_an_answer_whose_head_drips_is_given_up(monkeypatch):
    monkeypatch.setattr(source, "SILENCE_S", 0.5)

    def drip(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X: y\r\n")
            time.sleep(0.05)

    with answering(drip) as url, pytest.raises(InterruptedFetchError):
        read(url)


def test_a_document_that_claims_or_sends_too_much_is_refused():
    def claim(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(200 << 20))
        handler.end_headers()
        handler.wfile.write(b"[")

    def pour(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"[" * (1 << 16))

    for answer in (claim, pour):
        with answering(answer) as url, pytest.raises(CorruptError):
            read(url)
