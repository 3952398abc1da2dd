"""Requests: what a caller asks a node for, before the node decides what it may serve."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from registry.digest import Digest
from registry.value import Value


class Request(Value):
    """What is asked for."""

    family: str = Field(min_length=1)
    task: str | tuple[str, ...]
    """The kind of task, or several that one artifact has to serve."""
    min_tier: int = Field(ge=1)
    """The lowest tier that will do; 1 is the best."""
    artifact: Digest | None = None
    """Only this artifact will do, such as the one that a session began with."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Tokens of one conversation; None: all that the checkpoint was made for."""
    batch: int = Field(default=1, ge=1)
    """Conversations at once."""
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
