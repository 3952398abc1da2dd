"""Runs commands of `rung`, killed at their n-th durable operation, in forks of a process that imported it.

A command that starts anew takes half a second for its imports: of a thousand kills, and what follows each,
that would be the most part. Usage of the script: `python -m tests.campaigns.commands` reads one order a line.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

KINDS = (
    "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
    "fsync", "fdatasync", "ftruncate", "ftruncate64", "pwrite", "pwrite64",
)  # fmt: skip
"""As `killpoint.c` numbers them."""
SIZE = 24 + (1 << 20)
TIMEOUT_S = 900.0
HEAVY = ("torch", "tvm", "onnxruntime", "mlflow", "lm_eval", "transformers", "datasets", "numpy")
"""Not imported before the fork: they start threads, or read their options when they are imported."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    """Its exit code; -9 where it was killed."""
    operations: int
    """Durable operations that it began."""
    kind: str
    """The last of them."""
    said: str


class Commands:
    """Runs commands, one at a time; close it at the end.

    Args:
        scratch: For the library that kills, and its shared file.
    """

    def __init__(self, scratch: Path) -> None:
        library = scratch / "killpoint.so"
        source = Path(__file__).with_name("killpoint.c")
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", library, source, "-ldl"], check=True)
        shared = scratch / "killpoint"
        shared.write_bytes(bytes(SIZE))
        with shared.open("r+b") as stream:
            self._shared = mmap.mmap(stream.fileno(), SIZE)
        self._log = scratch / "said"
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "KILLPOINT": str(shared),
            "LD_PRELOAD": str(library),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.campaigns.commands"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arguments: list[str], *, at: Path, kill: int = 0) -> Ended:
        """Run one command.

        Args:
            arguments: After `rung`.
            at: Its working directory.
            kill: Before which durable operation it is killed; 0: before none.
        """
        struct.pack_into("@qqq", self._shared, 0, 0, kill, 0)
        order = {"arguments": arguments, "at": str(at), "log": str(self._log), "shared": self._shared_path}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        (count,) = struct.unpack_from("@q", self._shared, 0)
        struct.pack_into("@q", self._shared, 16, 0)  # what outlives it is not counted
        kind = KINDS[self._shared[24 + min(count, 1 << 20) - 1]] if count else "none"
        said = self._log.read_text(encoding="utf-8", errors="replace")
        return Ended(code=code, operations=count, kind=kind, said=said)

    def close(self) -> None:
        """End the process that forks."""
        self._process.communicate(timeout=60)

    @property
    def _shared_path(self) -> str:
        return str(self._log.with_name("killpoint"))


def main() -> None:
    """Run the commands of stdin; write the exit code of each."""
    from pipeline.cli.discover import verbs

    for verb in verbs().values():
        importlib.import_module(verb.module)
    for line in sys.stdin:
        order = json.loads(line)
        learned = Path(order["log"]).with_name("modules")
        pid = os.fork()
        if pid == 0:
            _run(order, learned)
        sys.stdout.write(f"{_wait(pid)}\n")
        sys.stdout.flush()
        _import(learned)


def _run(order: dict[str, str], learned: Path) -> None:
    """In the fork: what `rung` would do."""
    code = 99
    try:
        os.setsid()
        os.chdir(order["at"])
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        arguments = list(order["arguments"])
        sys.argv = ["rung", *arguments]
        if arguments[0] == "serve":
            _end_when_ready()
        from pipeline.cli.main import run

        with open(order["shared"], "r+b") as stream, mmap.mmap(stream.fileno(), SIZE) as shared:  # noqa: PTH123
            struct.pack_into("@q", shared, 16, os.getpid())
            code = run(arguments)
            struct.pack_into("@q", shared, 16, 0)
        learned.write_text("\n".join(sys.modules))
    except BaseException:  # noqa: BLE001  the edge of a process: it is what the campaign looks for
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end_when_ready() -> None:
    from serving.http import server

    def end(_: server.Address) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    server.print_ready = end


def _wait(pid: int) -> int:
    until = time.monotonic() + TIMEOUT_S
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def _import(learned: Path) -> None:
    """Import what a command needed, so that the next one need not."""
    if not learned.exists():
        return
    names = learned.read_text().splitlines()
    learned.unlink()
    for name in names:
        if name.partition(".")[0] not in HEAVY and name != "__main__":
            with suppress(Exception):
                importlib.import_module(name)


if __name__ == "__main__":
    main()
