"""The lower stage: variant × target → files compiled by one toolchain."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from registry.artifact import ModelFacts
from registry.checkpoint import FileEntry
from registry.digest import Digest
from registry.value import Value
from registry.variant import Variant


class LowerOutput(Value):
    """Compiled files, which hold no weights."""

    entry: str
    files: tuple[FileEntry, ...]
    options: dict[str, str | int | float | bool] = Field(default_factory=dict)
    log: Digest
    """Blob with what the compiler printed."""


class LowerRequest(Value):
    """Variant × target → compiled files, and the proof of what they hold."""

    kind: Literal["lower"] = "lower"
    key: Digest
    done: LowerOutput | None
    """The compiled files where they are there already and only the proof is missing."""
    variant: Variant
    facts: ModelFacts
    target: str
    toolchain: str
