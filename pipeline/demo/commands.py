"""Commands of a demo: each is printed, then run as a user would run it, and the demo ends where one fails."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

READY = "ready: "


def rung(*arguments: str, at: Path) -> None:
    """Run one command as a user would; ends the demo with its exit code if it fails."""
    say(f"\n$ rung {' '.join(quote(a) for a in arguments)}")
    done = subprocess.run([sys.executable, "-m", "pipeline.cli.main", *arguments], cwd=at, check=False)
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
