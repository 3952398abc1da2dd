"""The process in which chat templates are rendered, started once and ended when a template takes too long.

One process serves all threads, one rendering at a time. It holds no secret and answers with text alone, which
is all that is believed of it.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import select
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from compilers.model import template_sandbox
from compilers.model.template_sandbox import LENGTH, READY, REFUSED, RENDERED, TEXT_BYTES
from registry.errors import BuildError

RENDER_S = 5.0
"""Longest rendering."""
START_S = 60.0
"""Longest start of the process, on a machine under load."""


class TemplateError(Exception):
    """A template that refuses its variables, or takes more time or memory than it may."""


def render_apart(source: str, variables: Mapping[str, object]) -> str:
    """The text of a Jinja template, rendered in the process for templates.

    Args:
        source: Jinja source.
        variables: Made of exact JSON types.

    Raises:
        TemplateError: The template fails, or exceeds its limits.
        BuildError: The process cannot be started.
    """
    return _PROCESS.render(source, variables)


class _TemplateProcess:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, source: str, variables: Mapping[str, object]) -> str:
        request = pickle.dumps((source, dict(variables)))
        with self._lock:
            for last in (False, True):
                fresh = self._process is None
                process = self._process or self._start()
                try:
                    return self._ask(process, request)
                except (BrokenPipeError, EOFError) as error:
                    self._end()
                    # One that has stood idle may have been ended from outside: it is started once more.
                    if fresh or last:
                        raise TemplateError("it ended the process that renders templates") from error
                except BaseException:
                    if not isinstance(sys.exception(), TemplateError):
                        self._end()  # what it still writes must not answer the next request
                    raise
        raise AssertionError("unreachable")

    def end(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def forget(self) -> None:
        """In a fork: the process is the parent's."""
        self._lock = threading.Lock()
        self._process = None

    def _ask(self, process: subprocess.Popen[bytes], request: bytes) -> str:
        assert process.stdin is not None
        deadline = time.monotonic() + RENDER_S
        process.stdin.write(LENGTH.pack(len(request)) + request)
        process.stdin.flush()
        try:
            status = _read(process, 1, deadline=deadline)
            (length,) = LENGTH.unpack(_read(process, LENGTH.size, deadline=deadline))
            if status not in (RENDERED, REFUSED) or length > 4 * TEXT_BYTES:
                raise EOFError
            text = _read(process, length, deadline=deadline).decode("utf-8", "surrogatepass")
        except TimeoutError:
            self._end()
            raise TemplateError(f"it takes longer than {RENDER_S:.0f} s") from None
        if status == REFUSED:
            raise TemplateError(text)
        return text

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [sys.executable, "-m", template_sandbox.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path)},
        )
        self._process = process
        try:
            ready = _read(process, 1, deadline=time.monotonic() + START_S) == READY
        except (EOFError, TimeoutError):
            ready = False
        if not ready:
            self._end()
            raise BuildError(
                "the process that renders chat templates does not start",
                hint=f"run `{sys.executable} -m {template_sandbox.__name__}` to see why",
            )
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()
        process.wait()


def _read(process: subprocess.Popen[bytes], count: int, *, deadline: float) -> bytes:
    assert process.stdout is not None
    handle = process.stdout.fileno()
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    parts = bytearray()
    while len(parts) < count:
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        part = os.read(handle, min(count - len(parts), 1 << 20))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


_PROCESS = _TemplateProcess()
atexit.register(_PROCESS.end)
os.register_at_fork(after_in_child=_PROCESS.forget)
