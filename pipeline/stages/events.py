"""Worker events: what a worker process sends to its parent while it works, one JSON object per line.

A worker that did all it was asked sends `finish` last. One that failed with an error of Rung sends `error`
last; one that crashed sends nothing more.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from registry.digest import Digest
from registry.value import Value


class ProgressEvent(Value):
    """What is being done now, for people."""

    event: Literal["progress"] = "progress"
    text: str


class OutputEvent(Value):
    """A stage is finished; its output may be recorded."""

    event: Literal["output"] = "output"
    key: Digest
    """The stage's build key, from the request."""
    stage: str
    seconds: float
    """Time that the stage took."""
    output: dict[str, JsonValue]
    """The stage's output as JSON; the stage's module has its type."""
    peak_memory_bytes: int
    """Largest resident memory of the worker so far."""


class ErrorEvent(Value):
    """The request failed with an error of Rung."""

    event: Literal["error"] = "error"
    code: str
    """The error's stable code (`registry/errors.py`)."""
    message: str
    hint: str
    exit_code: int


class FinishEvent(Value):
    """All that was requested is done."""

    event: Literal["finish"] = "finish"


Event = Annotated[ProgressEvent | OutputEvent | ErrorEvent | FinishEvent, Field(discriminator="event")]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
