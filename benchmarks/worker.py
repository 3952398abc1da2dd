"""Worker processes: one engine each, driven by JSON lines.

A worker lives for all rounds, so that loading and warm-up are paid once and each engine keeps its own heap,
thread pool and peak memory. It runs only during its own turn.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from io import RawIOBase
from types import TracebackType
from typing import IO, Self, TypeVar

from benchmarks.child import ROOT, child_environment, die_with_parent
from benchmarks.engines.interface import BenchEngine, EngineSpec, make_engine
from benchmarks.turn import (
    AskBatch,
    AskDecode,
    AskLogits,
    AskPrefill,
    Load,
    Loaded,
    Logits,
    Question,
    Trouble,
    Turn,
    TurnBatch,
    take_batch,
    take_turn,
    write_logits,
)
from registry.errors import EvaluationError
from registry.value import Value

TIME_LIMIT_S = 600.0
"""For one answer."""
_BORN = time.monotonic()


Answer = TypeVar("Answer", Loaded, Turn, TurnBatch, Logits)


class Worker:
    """The parent's end. Use it in a `with` block: the process ends with it.

    Raises:
        EvaluationError: The engine cannot be loaded.
    """

    def __init__(self, spec: EngineSpec, *, threads: int, capacity: int) -> None:
        self.spec = spec
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed by `close`
        answers, child_end = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", str(child_end)],
            cwd=spec.checkout or ROOT,
            env=child_environment(),
            stdin=subprocess.PIPE,
            stdout=self._log,
            stderr=self._log,
            pass_fds=[child_end],
        )
        os.close(child_end)
        self._answers = os.fdopen(answers, "rb", buffering=0)
        try:
            # An older checkout's worker knows no `checkout`.
            here = spec.model_copy(update={"checkout": None})
            self.loaded = self._ask(Load(spec=here, threads=threads, capacity=capacity), Loaded)
        except BaseException:
            self.close()
            raise

    @property
    def process_id(self) -> int:
        """Of the worker's process."""
        return self._process.pid

    def turn(self, ask: AskPrefill | AskDecode) -> Turn:
        """One turn.

        Raises:
            EvaluationError: The engine failed.
        """
        return self._ask(ask, Turn)

    def batch(self, ask: AskBatch) -> TurnBatch:
        """Several sequences together.

        Raises:
            EvaluationError: The engine failed, or has one sequence only.
        """
        return self._ask(ask, TurnBatch)

    def logits(self, ask: AskLogits) -> Logits:
        """Logits of texts, in a file.

        Raises:
            EvaluationError: The engine failed.
        """
        return self._ask(ask, Logits)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: Value, answer: type[Answer]) -> Answer:
        pipe = self._process.stdin
        assert pipe is not None  # for the type checker: it was opened as a pipe
        with contextlib.suppress(BrokenPipeError):
            pipe.write(question.model_dump_json(exclude_none=True).encode() + b"\n")
            pipe.flush()
        line = self._read_line()
        if not line:
            raise EvaluationError(f"`{self.spec.name}` crashed: {self._last_words()}", hint="run it alone")
        if line.startswith(b'{"error"'):
            trouble = Trouble.model_validate_json(line)
            raise EvaluationError(f"`{self.spec.name}`: {trouble.error}", hint="run it alone")
        return answer.model_validate_json(line)

    def _read_line(self) -> bytes:
        line, deadline = b"", time.monotonic() + TIME_LIMIT_S
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                self._process.kill()
                raise EvaluationError(
                    f"`{self.spec.name}` gave no answer for {TIME_LIMIT_S:.0f} s", hint="run it alone"
                )
            chunk = self._answers.read(1 << 16)
            if not chunk:
                return b""
            line += chunk
        return line

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return " / ".join(lines[-3:]) or "without a word"


def main(arguments: list[str]) -> int:
    """The child's end: answer each line of standard input on the file descriptor that is named."""
    die_with_parent()
    with os.fdopen(int(arguments[0]), "wb", buffering=0) as out:
        load = Load.model_validate_json(sys.stdin.readline())
        try:
            engine = make_engine(load.spec, threads=load.threads, capacity=load.capacity)
            _send(out, Loaded(version=engine.version(), seconds=_age_s()))
            for line in sys.stdin:
                _send(out, _do(engine, Question.model_validate_json(line).root))
        except Exception as error:  # noqa: BLE001  the edge of an engine: a failure becomes a row of the report
            _send(out, Trouble(error=f"{type(error).__name__}: {error}"))
            return 1
    return 0


def _do(engine: BenchEngine, question: AskPrefill | AskDecode | AskBatch | AskLogits) -> Value:
    if isinstance(question, AskLogits):
        return write_logits(engine, question)
    if isinstance(question, AskBatch):
        return take_batch(engine, question)
    return take_turn(engine, question)


def _send(out: RawIOBase, value: Value) -> None:
    out.write(value.model_dump_json().encode() + b"\n")


def _age_s() -> float:
    return time.monotonic() - _BORN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
