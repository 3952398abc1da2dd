"""Build records: the results of finished stages of a build, by build key.

The same key means the same result, so a build looks a stage up before running it. This is both how a build
resumes and how it caches.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import AwareDatetime, Field, JsonValue

from registry.digest import Digest
from registry.value import Value

BLOB_FIELDS = frozenset({"tokens", "logits", "float_error", "log", "scorecard"})
"""Fields that hold the digest of a blob, as does the `digest` of every file entry. Other digests name a
checkpoint, an artifact or a set of tasks."""


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
    """Duration of the stage."""
    peak_memory_bytes: int | None = Field(default=None, ge=0)
    """Largest resident memory of the stage's process; None: not measured."""


def blobs_of(output: object) -> Iterator[str]:
    """Digests of the blobs that a stage's output refers to, wherever they are in it."""
    if isinstance(output, dict):
        if "path" in output and "digest" in output:
            yield str(output["digest"])
        for name, value in output.items():
            if name in BLOB_FIELDS and isinstance(value, str):
                yield value
            else:
                yield from blobs_of(value)
    elif isinstance(output, list):
        for value in output:
            yield from blobs_of(value)
