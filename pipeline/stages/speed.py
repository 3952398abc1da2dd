"""The speed stage: an artifact's throughput in tokens per second."""

from __future__ import annotations

from pydantic import Field

from compilers.check.speed import Speed
from matrices.cells.measurement import Measurement
from pipeline.stages.stage import Stage
from registry.digest import Digest
from registry.value import Value


class SpeedOutput(Value):
    """The artifact's throughput."""

    speed: Speed
    measurement: Measurement


class SpeedRequest(Value):
    """How to time an artifact."""

    key: Digest
    prompt_tokens: int = Field(default=96, ge=1)
    decode_steps: int = Field(default=32, ge=1)
    repeats: int = Field(default=5, ge=1)


SPEED = Stage("speed", work="pipeline.stages.work.speed:time_artifact", output=SpeedOutput, needs=("prove",))
