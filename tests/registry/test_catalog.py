"""The catalogue of an MLflow server: credentials in its URI are used as MLflow's own client uses them."""

from __future__ import annotations

import base64
import threading
import urllib.parse
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from registry.catalog import open_catalog
from registry.errors import RegistryError

PASSWORDS = ["secret-word", "p@ss:w/rd?#%", "пароль"]


@pytest.fixture(params=PASSWORDS)
def guarded(request: pytest.FixtureRequest) -> Iterator[tuple[str, str]]:
    """The place of a server that asks for a user's password, and that password."""
    wanted = "Basic " + base64.b64encode(f"user:{request.param}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            good = self.headers.get("Authorization") == wanted
            self.send_response(200 if good else 401)
            self.end_headers()
            self.wfile.write(b'{"registered_models": [{"name": "m"}]}' if good else b"{}")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}", request.param
    server.shutdown()
    server.server_close()


def test_the_user_of_the_uri_is_who_asks(guarded: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, password = guarded
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone-else")
    uri = f"http://user:{urllib.parse.quote(password, safe='')}@{place}/"
    assert open_catalog(uri).names() == ["m"]


def test_an_error_says_nothing_of_the_credentials(guarded: tuple[str, str]) -> None:
    place, _ = guarded
    with pytest.raises(RegistryError) as refused:
        open_catalog(f"http://user:wrong-word@{place}").names()
    assert "wrong-word" not in str(refused.value)
    assert place in refused.value.message
