"""The worker's end of the event pipe: sends typed events to the parent as JSON lines."""

from __future__ import annotations

import json
import os
import resource

from pipeline.stages.events import ErrorEvent, Event, FinishEvent, OutputEvent, ProgressEvent
from registry.errors import RungError
from registry.value import Value


class Reporter:
    """Sends events to the parent: outputs of stages, progress, and errors.

    Args:
        fd: Number of the pipe's writing end.
    """

    def __init__(self, fd: int) -> None:
        self._stream = os.fdopen(fd, "w", buffering=1, encoding="utf-8", errors="replace")

    def output(self, key: str, value: Value, *, stage: str, seconds: float) -> None:
        """A stage is finished; its output may be recorded."""
        self._send(
            OutputEvent(
                key=key,
                stage=stage,
                seconds=seconds,
                output=value.model_dump(mode="json"),
                peak_memory_bytes=peak_memory_bytes(),
            )
        )

    def progress(self, text: str) -> None:
        """What is being done now, for people."""
        self._send(ProgressEvent(text=text))

    def error(self, error: RungError) -> None:
        """The request failed with an error of Rung."""
        self._send(
            ErrorEvent(code=error.code, message=error.message, hint=error.hint, exit_code=error.exit_code)
        )

    def finish(self) -> None:
        """All was done; nothing can be sent after it."""
        self._send(FinishEvent())
        self._stream.close()

    def _send(self, event: Event) -> None:
        # Not pydantic's JSON, which refuses the lone surrogates that names of files may hold.
        self._stream.write(json.dumps(event.model_dump(), ensure_ascii=False) + "\n")


def peak_memory_bytes() -> int:
    """Largest resident memory so far of this process or one of its children."""
    peak_kib = max(
        resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return peak_kib * 1024
