"""Worker events: what a worker writes, its parent reads as the same value."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from pipeline.stages.events import EVENT, ErrorEvent, FinishEvent, OutputEvent, ProgressEvent
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.reporter import Reporter
from registry.digest import digest_value
from registry.errors import BuildError

KEY = digest_value("key")


def test_what_is_reported_is_read_back_line_by_line() -> None:
    reader, writer = os.pipe()
    report = Reporter(writer)
    report.progress("compiling\nstill")
    output = ProbeOutput(tokens=KEY, logits=KEY)
    report.output(KEY, output, stage="probe", seconds=1.5)
    report.error(BuildError("it broke", hint="mend it"))
    report.finish()
    with os.fdopen(reader, encoding="utf-8") as stream:
        progress, made, error, finish = [EVENT.validate_json(line) for line in stream]
    assert progress == ProgressEvent(text="compiling\nstill")
    assert isinstance(made, OutputEvent)
    assert (made.key, made.stage, made.seconds) == (KEY, "probe", 1.5)
    assert ProbeOutput.model_validate(made.output) == output
    assert made.peak_memory_bytes > 0
    assert error == ErrorEvent(code="build", message="it broke", hint="mend it", exit_code=4)
    assert finish == FinishEvent()


@pytest.mark.parametrize(
    "line",
    ['{"event": "done"}', '{"event": "progress"}', '{"event": "finish", "more": 1}', '{"event": "fin'],
)
def test_a_line_of_another_form_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        EVENT.validate_json(line)
