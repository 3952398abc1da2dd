"""Commands of a demo: each is printed, then run as a user would run it, and the demo ends where one fails."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

READY = "ready: "


def rung(*arguments: str, at: Path) -> None:
    """Run one command as a user would; ends the demo with its exit code if it fails."""
    run_python(f"rung {' '.join(quote(a) for a in arguments)}", "-m", "pipeline.cli.main", *arguments, at=at)


def add_checkpoints(folders: Sequence[Path], *, names: Sequence[str], family: str, at: Path) -> None:
    """Register checkpoints of a family; the first is the parent of the others."""
    parent: list[str] = []
    for folder, name in zip(folders, names, strict=True):
        rung("checkpoint", "add", str(folder), "--name", name, "--family", family, *parent, at=at)
        parent = ["--parent", f"{names[0]}/1"]


def ask(
    url: str, body: Mapping[str, object], headers: Mapping[str, str]
) -> tuple[Mapping[str, str], Any]:  # Any: JSON
    """The headers and the JSON of a server's answer."""
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json", **headers}
    )
    with urllib.request.urlopen(request, timeout=300) as answer:
        return answer.headers, json.loads(answer.read())


def run_python(shown: str, *arguments: str, at: Path) -> None:
    """Run Python and print the command as it is `shown`; ends the demo with its exit code if it fails."""
    say(f"\n$ {shown}")
    done = subprocess.run([sys.executable, *arguments], cwd=at, check=False)
    if done.returncode != 0:
        say(f"the demo stops here: exit code {done.returncode}")
        sys.exit(done.returncode)


@contextlib.contextmanager
def serving(command: list[str], *, at: Path) -> Iterator[str]:
    """Run `rung serve` with these arguments until the block ends; gives the URL that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.cli.main", *command], cwd=at, stderr=subprocess.PIPE, text=True
    )
    try:
        url = None
        if process.stderr is None:
            raise RuntimeError("the server's stderr is a pipe")
        for line in process.stderr:
            say(line.rstrip())
            if READY in line:
                url = line.split(READY, 1)[1].split()[0]
                break
        if url is None:
            sys.exit(process.wait() or 1)
        threading.Thread(target=lambda: [None for _ in process.stderr or ()], daemon=True).start()
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def quote(argument: str) -> str:
    """An argument as a shell would need it."""
    return f'"{argument}"' if " " in argument else argument


def say(text: str) -> None:
    """Print a line at once."""
    print(text, flush=True)  # noqa: T201  # the demo talks on stdout
