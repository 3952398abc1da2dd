"""A request to resolution: the family, task types, lowest tier, context length and batch to serve."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from registry.digest import Digest
from registry.value import Value


class Request(Value):
    """What an artifact has to serve."""

    family: str = Field(min_length=1)
    task: str | tuple[str, ...]
    """The kind of task, or several that one artifact has to serve."""
    min_tier: int = Field(ge=1)
    """The lowest acceptable tier; 1 is the best."""
    artifact: Digest | None = None
    """Only this artifact is acceptable, such as the one that a session began with."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Length of one conversation in tokens; None: the checkpoint's full context."""
    batch: int = Field(default=1, ge=1)
    """Number of concurrent conversations."""
    region: str | None = None
    """Where the node is; reserved for a policy gate (not implemented)."""

    @model_validator(mode="after")
    def _names_a_task(self) -> Self:
        if not self.tasks or not all(self.tasks):
            raise ValueError("a request names at least one task type")
        return self

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task types asked for, each once, in order."""
        named = (self.task,) if isinstance(self.task, str) else self.task
        return tuple(dict.fromkeys(named))
