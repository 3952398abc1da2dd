"""Stage records: the results of finished stages of a build, by build key.

Same key, same result: a build looks a stage up before it runs it. Resume and cache are nothing else.
"""

from __future__ import annotations

from pydantic import AwareDatetime, Field, JsonValue

from registry.digest import Digest
from registry.value import Value


class BuildRecord(Value):
    """A finished stage."""

    key: Digest
    """Build key: hash of everything that the result depends on."""
    stage: str = Field(min_length=1)
    """`export`, `quantize`, `lower`, `verify`, `evaluate` …"""
    output: dict[str, JsonValue]
    """The stage's result: digests of blobs, and numbers."""
    started_at: AwareDatetime
    finished_at: AwareDatetime
    seconds: float = Field(ge=0)
    """Time that the stage took."""
    peak_memory_bytes: int | None = Field(default=None, ge=0)
    """Largest resident memory of the stage's process; None where it was not measured."""
