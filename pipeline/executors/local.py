"""The local executor: each piece of work in its own process, with a time limit and a log.

A worker that crashes, hangs or runs out of memory becomes a `Failure` with its log; the build goes on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from compilers.backend import find_toolchain
from pipeline.executors.interface import Failure, Finished, Work
from pipeline.executors.memory import held_bytes
from pipeline.executors.scratch import scratch_directory
from pipeline.stages.context import LOG_NAME
from pipeline.stages.events import EVENT, ErrorEvent, Event, FinishEvent
from pipeline.stages.order import WorkerOrder
from registry.store import Store

LOOK_EVERY_S = 0.5
GIB = 1 << 30
WORKER = (sys.executable, "-m", "pipeline.executors.worker")


class LocalExecutor:
    """Runs work in local processes.

    Args:
        store: Where workers put bytes.
        scratch: Directory for scratch directories; one lock file in each says that it is in use.
        threads: Threads of each worker.
        memory_bytes: What one worker with its children may hold; more ends it. None: no limit.
        chip: Where evidence must come from; workers on another chip refuse. None: from this machine.
        dirty_marker: A file to make before the first worker starts.
        command: The worker's command line; the order's path and the event pipe's number are appended.
    """

    def __init__(
        self,
        store: Store,
        *,
        scratch: Path,
        threads: int = 1,
        memory_bytes: int | None = None,
        chip: str | None = None,
        dirty_marker: Path | None = None,
        command: tuple[str, ...] = WORKER,
    ) -> None:
        self._command = command
        self._chip = chip
        self._dirty_marker = dirty_marker
        self._store = store
        self._scratch = scratch
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        scratch.mkdir(parents=True, exist_ok=True)

    def toolchain_version(self, name: str) -> str:
        """The version of a toolchain on this machine.

        Raises:
            ToolchainMissingError: It is not installed.
        """
        return find_toolchain(name).version()

    def run(self, work: Work, *, on_event: Callable[[Event], None]) -> Finished | Failure:
        """Run one piece of work to its end; called from several threads at once."""
        if self._dirty_marker is not None:
            self._dirty_marker.touch()
        with scratch_directory(self._scratch) as scratch:
            order = WorkerOrder(
                store=self._store.root,
                scratch=scratch,
                threads=self._threads,
                chip=self._chip,
                request=work.request,
            )
            (scratch / "order.json").write_text(order.model_dump_json(), encoding="utf-8")
            with (scratch / LOG_NAME).open("wb") as log:
                return self._watch(work, scratch=scratch, log=log, on_event=on_event)

    def stop(self) -> None:
        """Kill all running workers."""
        with self._lock:
            for process in self._running:
                _kill(process)

    def _watch(
        self, work: Work, *, scratch: Path, log: IO[bytes], on_event: Callable[[Event], None]
    ) -> Finished | Failure:
        reader, writer = os.pipe()
        command = [*self._command, str(scratch / "order.json"), str(writer)]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            env=_environment(self._threads),
            start_new_session=True,
        )
        os.close(writer)
        with self._lock:
            self._running.add(process)
        guard = _Guard(process, work, memory_bytes=self._memory_bytes)
        guard.start()
        last: Event | None = None
        try:
            with os.fdopen(reader, encoding="utf-8", errors="replace") as stream:
                for event in _events(stream):
                    last = event
                    on_event(event)
            code = process.wait()
        finally:
            guard.stop()
            _kill(process)
            process.wait()
            with self._lock:
                self._running.discard(process)
        if code == 0 and isinstance(last, FinishEvent):
            return Finished()
        text = (scratch / LOG_NAME).read_bytes()
        digest = self._store.add_bytes(text).digest
        return guard.failure(log=digest) or _failure(work, code=code, last=last, log=digest, text=text)


class _Guard:
    """Ends a worker that takes longer or holds more memory than it may."""

    def __init__(self, process: subprocess.Popen[bytes], work: Work, *, memory_bytes: int | None) -> None:
        self._process = process
        self._work = work
        self._memory_bytes = memory_bytes
        self._done = threading.Event()
        self._exceeded: tuple[str, str, str] | None = None
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """The worker has ended."""
        self._done.set()
        self._thread.join()

    def failure(self, *, log: str) -> Failure | None:
        """Why it ended the worker; None if it did not."""
        if self._exceeded is None:
            return None
        code, what, hint = self._exceeded
        return Failure(code, f"{self._work.label}: stopped {what}", hint, 4, log)

    def _watch(self) -> None:
        end = time.monotonic() + self._work.timeout_s
        while not self._done.wait(max(0.0, min(LOOK_EVERY_S, end - time.monotonic()))):
            if time.monotonic() >= end:
                what = f"after its time limit of {self._work.timeout_s:.0f} s"
                self._exceeded = ("timeout", what, "raise `--timeout`, or see the log")
            elif (
                self._memory_bytes is not None
                and (held := held_bytes(self._process.pid)) > self._memory_bytes
            ):
                what = f"out of memory: it held {held / GIB:.1f} of {self._memory_bytes / GIB:.1f} GiB"
                self._exceeded = ("memory", what, "raise `--memory`, or build on a larger machine")
            if self._exceeded is not None:
                _kill(self._process)
                return


def _environment(threads: int) -> dict[str, str]:
    single = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    # TVM pins its threads to the first cores by default: two workers would share one.
    return {**os.environ, **single, "TVM_BIND_THREADS": "0", "TOKENIZERS_PARALLELISM": "false"}


def _events(stream: IO[str]) -> Iterator[Event]:
    for line in stream:
        try:
            yield EVENT.validate_json(line)
        except ValidationError:
            if line.endswith("\n"):
                what = f"the worker sent a line that is not an event: {line.strip()[:200]}"
                yield ErrorEvent(
                    code="protocol", message=what, hint="report it as a bug in Rung", exit_code=4
                )
            return  # otherwise it died while it wrote its last line


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _failure(work: Work, *, code: int, last: Event | None, log: str, text: bytes) -> Failure:
    if isinstance(last, ErrorEvent):
        return Failure(last.code, last.message, last.hint, last.exit_code, log)
    tail = text.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it printed nothing"]
    if code < 0:
        name = signal.Signals(-code).name
        why = " (out of memory?)" if -code == signal.SIGKILL else ""
        return Failure(
            "crash", f"{work.label}: the process died of {name}{why}: {tail[0]}", "see the log", 4, log
        )
    return Failure("crash", f"{work.label}: the process ended with {code}: {tail[0]}", "see the log", 4, log)
