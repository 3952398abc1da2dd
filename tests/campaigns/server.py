"""A server under damaged requests, idle connections and load: health is answered all the while."""

from __future__ import annotations

import collections
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

BODY = {"model": "demo-agent", "prompt": "pay_bill from accra", "max_tokens": 8, "temperature": 0}
VALUES = [
    None,
    True,
    -1,
    2**64,
    10**40,
    1e308,
    "",
    "\x00",
    "💥" * 50,
    "a" * 100_000,
    [],
    [[]],
    {},
    [-1],
    [[1], []],
]
RAW = [b"NaN", b"1e999", b'"\\ud800"', b"1" * 5000, b"[" * 100_000, b'{"a":' * 5000, b'"\xff"', b"tru"]
HEADERS = [
    "X-Rung-Min-Tier: 99999", "X-Rung-Task: \x80", "Content-Type: text/plain", "Host: evil.example",
    "Origin: http://evil.example", "Content-Encoding: gzip", "Content-Length: 5", "Content-Length: -5",
    "Transfer-Encoding: gzip", "Transfer-Encoding: chunked", "Cookie: " + "a" * 60_000, "Upgrade: websocket",
]  # fmt: skip
ASKING = 16
"""Damaged requests at once."""


class _Health:
    """Asks for health all the while, from another process."""

    def __init__(self, port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("health.py")), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def end(self) -> tuple[list[float], int]:
        """The seconds of all answers in their order of length, and how many did not come."""
        said, _ = self._process.communicate(timeout=120)
        found = json.loads(said)
        return sorted(found["seconds"]), found["missed"]


def attack_server(
    demo: Path,
    *,
    requests: int,
    idle: int,
    half_open: int,
    callers: int,
    load_s: float,
    health_s: float,
    seed: int,
) -> dict[str, Any]:
    """Attack a server of the demo's node; what came of it."""
    dice = random.Random(seed)
    problems: list[str] = []
    with _serving(demo) as (port, process, log):
        health = _Health(port)
        asked = [_request(dice) for _ in range(requests)]
        with ThreadPoolExecutor(ASKING) as pool:  # one whose rest never comes is closed after half a minute
            statuses = collections.Counter(
                str(status) for status in pool.map(partial(_exchange, port), asked)
            )
        opened = [socket.create_connection(("127.0.0.1", port)) for _ in range(idle + half_open)]
        for one in opened[idle:]:
            one.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n{")
        time.sleep(2)
        for one in opened:
            one.close()
        answers, memory = _load(port, process.pid, callers=callers, seconds=load_s)
        seconds, missed = health.end()
        p99_s = seconds[int(len(seconds) * 0.99)]
        if process.poll() is not None:
            problems.append(f"the server ended with {process.returncode}")
        if "Traceback" in log.read_text(encoding="utf-8", errors="replace"):
            problems.append(f"uncaught: {log.read_text(encoding='utf-8', errors='replace')[-2000:]}")
    if statuses["500"] or any(status not in ("200", "503") for status in answers):
        problems.append(f"answers {dict(statuses)}, under load {dict(answers)}")
    if missed or p99_s > health_s:
        problems.append(f"health: {missed} of {len(seconds)} missed, p99 {p99_s:.3f} s")
    middle, end = memory
    if end > 1.1 * middle:
        problems.append(f"memory grew from {middle} kB in the middle of the load to {end} kB at its end")
    return {
        "mutated requests": dict(sorted(statuses.items())),
        "idle and half-open connections": [idle, half_open],
        "answers under load": dict(answers),
        "callers": callers,
        "seconds of load": load_s,
        "health checks": len(seconds),
        "health p99 ms": round(p99_s * 1000),
        "memory MB, middle and end of the load": [middle >> 10, end >> 10],
        "problems": problems,
    }


@contextmanager
def _serving(demo: Path) -> Iterator[tuple[int, subprocess.Popen[bytes], Path]]:
    command = [
        sys.executable,
        "-m",
        "pipeline.cli.main",
        "serve",
        "--node",
        str(demo / "node"),
        "--port",
        "0",
    ]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with tempfile.TemporaryDirectory(prefix="rung-soak-") as scratch:
        log = Path(scratch) / "log"
        with log.open("wb") as stream:
            process = subprocess.Popen([*command, "--task", "tool-calling"], stderr=stream, env=environment)
        try:
            while "ready: " not in (said := log.read_text(encoding="utf-8", errors="replace")):
                if process.poll() is not None:
                    raise RuntimeError(said)
                time.sleep(0.1)
            port = int(said.rpartition("ready: ")[2].split(":")[2].split("/")[0])
            yield port, process, log
        finally:
            process.terminate()
            process.wait(60)


def _exchange(port: int, data: bytes) -> int:
    """The status of an answer; 0 where the connection was closed without one."""
    try:
        with closing(socket.create_connection(("127.0.0.1", port), timeout=60)) as opened:
            opened.sendall(data)
            found = b""
            while part := opened.recv(1 << 16):
                found += part
    except ConnectionError:
        return 0
    return int(found.split(b" ", 2)[1]) if found.startswith(b"HTTP/1.1 ") else 0


def _post(body: bytes, *, headers: str = "") -> bytes:
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode("latin-1", "replace") + body


def _request(dice: random.Random) -> bytes:
    body = json.dumps(BODY).encode()
    match dice.randrange(4):
        case 0:
            return _post(
                json.dumps(BODY | {dice.choice([*BODY, "extra", "tools", "n"]): dice.choice(VALUES)}).encode()
            )
        case 1:
            return _post(
                json.dumps(BODY | {dice.choice([*BODY]): "@"}).encode().replace(b'"@"', dice.choice(RAW))
            )
        case 2:
            return _post(body, headers=dice.choice(HEADERS) + "\r\n")
        case _:
            data = bytearray(_post(body))
            for _ in range(dice.randint(1, 4)):
                data[dice.randrange(len(data))] = dice.randrange(256)
            return bytes(data) + b"\r\n\r\n"


def _load(
    port: int, pid: int, *, callers: int, seconds: float
) -> tuple[collections.Counter[str], tuple[int, int]]:
    """Statuses of all answers, and resident memory in the middle and at the end, in kB."""
    answers: collections.Counter[str] = collections.Counter()
    lock = threading.Lock()
    began = time.monotonic()

    def call() -> None:
        while time.monotonic() - began < seconds:
            status = str(_exchange(port, _post(json.dumps(BODY).encode())))
            with lock:
                answers[status] += 1

    threads = [threading.Thread(target=call) for _ in range(callers)]
    [thread.start() for thread in threads]
    time.sleep(seconds / 2)
    middle = _resident_kb(pid)
    [thread.join() for thread in threads]
    return answers, (middle, _resident_kb(pid))


def _resident_kb(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
