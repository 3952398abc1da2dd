"""A static file server on loopback, with or without `Range`, that can hang up in the midst of a file."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def file_server(
    root: Path,
    *,
    ranges: bool = False,
    cut_after: Sequence[int] = (),
    cut_bytes: int | None = None,
    pause_s: float = 0.0,
    status: int | None = None,
) -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """Serve a folder on loopback; gives the URL, and path and `Range` of each request.

    Args:
        root: The folder.
        ranges: Whether it knows `Range`.
        cut_after: It hangs up after so many bytes, once for each entry.
        cut_bytes: It does that in files of this size alone; None: in all.
        pause_s: It pauses so long after every 32 KiB.
        status: It answers this alone.
    """
    cuts = list(cut_after)
    log: list[tuple[str, str | None]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            log.append((self.path, asked))
            path = root / self.path.lstrip("/")
            if status is not None or not path.is_file():
                self.send_error(status or 404)
                return
            data = path.read_bytes()
            start = int(asked.removeprefix("bytes=").rstrip("-")) if ranges and asked else 0
            if start >= len(data) > 0:
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            end = start + cuts.pop(0) if cuts and cut_bytes in (None, len(data)) else len(data)
            for at in range(start, min(end, len(data)), 1 << 15):
                self.wfile.write(data[at : min(at + (1 << 15), end)])
                time.sleep(pause_s)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """A killed client is no news."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", log
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
