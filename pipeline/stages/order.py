"""What a worker process is given: one request, and where it may work; crosses to the worker as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter

from pipeline.stages.examine import ExamineRequest
from pipeline.stages.export import ExportRequest
from pipeline.stages.lower import LowerRequest
from pipeline.stages.quantize import QuantizeRequest
from pipeline.stages.recheck import RecheckRequest
from pipeline.stages.reference import ReferenceRequest
from pipeline.stages.rehearse import RehearseRequest
from registry.value import Value

Request = Annotated[
    ExportRequest
    | QuantizeRequest
    | LowerRequest
    | ReferenceRequest
    | ExamineRequest
    | RehearseRequest
    | RecheckRequest,
    Field(discriminator="kind"),
]
REQUEST: TypeAdapter[Request] = TypeAdapter(Request)


class WorkerOrder(Value):
    """What a worker process is given: the request, and where it may work."""

    store: Path
    scratch: Path
    """Its private directory, which the parent removes."""
    threads: int = 1
    chip: str | None = None
    """Evidence is wanted of this chip, and of no other; None: of whichever this is."""
    request: Request
