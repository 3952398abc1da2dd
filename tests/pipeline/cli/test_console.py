import http.server
import io
import json
import logging
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.table import Table
from rich.text import Text

from pipeline.cli import output
from pipeline.cli.console import CleanConsole, clean_streams, printable
from registry.errors import ConfigurationError
from registry.signing import generate_keys

EVIL = "\x1b]0;pwned\x07\x1b[31mred\x9b2J\r\x08\x7f\u202etxt\u2028\ud800"


@given(st.text(st.characters(codec=None)))
def test_nothing_printable_is_changed_and_nothing_else_is_left(text):
    found = printable(text)
    assert all(one in "\t\n" or ord(one) >= 32 for one in found)
    assert not set(found) & {
        chr(code) for code in (*range(0x7F, 0xA0), *range(0xD800, 0xE000), 0x202E, 0x2066)
    }
    found.encode()
    if text.isprintable():
        assert found == text


def test_every_way_of_printing_is_clean(capsys):
    with clean_streams():
        output.line(EVIL)
        output.note(EVIL)
        output.error(ConfigurationError(EVIL, hint=EVIL))
        output.data({EVIL: [EVIL]})
        table = Table(EVIL)
        table.add_row(Text(EVIL))
        output.rich(table)
        handler = logging.StreamHandler(sys.stderr)
        handler.emit(logging.LogRecord("x", logging.ERROR, "x", 1, "%s failed", (EVIL,), None))
        sys.stderr.writelines([EVIL])
    shown = capsys.readouterr()
    for text in (shown.out, shown.err):
        assert "pwned" in text
        assert printable(text) == text


def test_json_that_was_made_printable_is_the_same_json(capsys):
    with clean_streams():
        output.data({"a": EVIL})
    assert json.loads(capsys.readouterr().out) == {"a": EVIL}


def test_a_table_on_a_terminal_keeps_its_own_colours(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    CleanConsole().print(Text("\x1b[2Jx", style="red"))
    assert stream.getvalue() == "\x1b[31m\\u001b[2Jx\x1b[0m\n"


def test_a_server_cannot_reach_the_terminal_of_who_pulls(tmp_path):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(403, "\x1b]0;pwned\x07\x1b[31mred")
            self.end_headers()

        def log_message(self, *_):
            pass

    generate_keys(tmp_path / "key", tmp_path / "key.pub")
    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    command = [sys.executable, "-m", "pipeline.cli.main", "pull", "r1"]
    try:
        done = subprocess.run(
            [*command, "--from", url, "--key", tmp_path / "key.pub", "--out", tmp_path / "n"],
            capture_output=True,
            timeout=120,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 3
    assert b"pwned" in done.stderr
    assert not set(done.stderr) & (set(range(32)) - {10})


@pytest.mark.parametrize("text", ["größer 😀", "a\tb\n", "العربية", "日本語", ""])
def test_plain_text_is_left_alone(text):
    assert printable(text) == text
