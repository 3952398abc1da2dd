"""Estimates of a worker's peak memory, by which a build admits work."""

from __future__ import annotations

from typing import assert_never

from compilers.backend import find_toolchain
from pipeline.stages.examine import ExamineRequest
from pipeline.stages.export import ExportRequest
from pipeline.stages.lower import LowerRequest
from pipeline.stages.order import Request
from pipeline.stages.quantize import QuantizeRequest
from pipeline.stages.recheck import RecheckRequest
from pipeline.stages.reference import ReferenceRequest
from pipeline.stages.rehearse import RehearseRequest
from registry.checkpoint import Checkpoint

BASE_MEMORY_BYTES = 700 << 20
"""A worker with its libraries and nothing loaded."""
FP32_BYTES = 4


def peak_memory_bytes(request: Request, checkpoint: Checkpoint) -> int:
    """Estimate of the peak memory of a request's worker."""
    return BASE_MEMORY_BYTES + int(_copies(request) * FP32_BYTES * checkpoint.parameters)


def _copies(request: Request) -> float:
    """The part that grows with the checkpoint, as multiples of its weights in float32."""
    match request:
        case ExportRequest():
            return 0.0
        case QuantizeRequest():
            return 3.0
        case ReferenceRequest():
            return 1.5
        case LowerRequest():
            return 3.5 if find_toolchain(request.toolchain).embeds_weights else 0.5
        case ExamineRequest() | RecheckRequest():
            return 2.5
        case RehearseRequest():
            return 3.5
        case _:
            assert_never(request)
