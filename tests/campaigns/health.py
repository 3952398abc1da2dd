"""Asks a server for its health twenty times a second until stdin ends; prints the seconds of each answer.

Usage: `python -m tests.campaigns.health PORT`. It has its own process: in that of 64 callers it would measure
them.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def main() -> None:
    seconds: list[float] = []
    missed = 0
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        began = time.monotonic()
        missed += not _is_answered(int(sys.argv[1]))
        seconds.append(time.monotonic() - began)
    sys.stdout.write(json.dumps({"seconds": seconds, "missed": missed}))


def _is_answered(port: int) -> bool:
    found = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=30) as opened:
            opened.sendall(REQUEST)
            while part := opened.recv(1 << 16):
                found += part
    except OSError:
        return False
    return found.startswith(b"HTTP/1.1 200")


if __name__ == "__main__":
    main()
