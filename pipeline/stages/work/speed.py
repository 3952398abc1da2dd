"""Artifact → its throughput."""

from __future__ import annotations

from compilers.check.speed import measure_machine, measure_speed
from pipeline.stages.speed import SpeedOutput, SpeedRequest
from pipeline.stages.work.artifact import LoadedArtifact


def time_artifact(artifact: LoadedArtifact, request: SpeedRequest, *, threads: int) -> SpeedOutput:
    """Time prefill and decode.

    Raises:
        LoadError: The artifact's context is too short to be timed.
    """
    speed = measure_speed(
        artifact.session,
        prompt_tokens=request.prompt_tokens,
        decode_steps=request.decode_steps,
        repeats=request.repeats,
        threads=threads,
        machine=measure_machine(threads=threads) if artifact.target.kind == "cpu" else None,
    )
    return SpeedOutput(
        speed=speed,
        measurement=artifact.measurement(),
    )
