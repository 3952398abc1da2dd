"""Removals: what a person took out of a workspace, who, why, and what depended on it; kept for good.

A removed release keeps its row and its document in the database, and its name is never used again.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AwareDatetime, Field

from registry.digest import Digest
from registry.value import Value

RemovedKind = Literal["release", "checkpoint"]


class Removal(Value):
    """One removal."""

    kind: RemovedKind
    name: str = Field(min_length=1)
    """Of the release; `name/version` of the checkpoint."""
    digest: Digest
    who: str
    why: str
    at: AwareDatetime
    overridden: tuple[str, ...] = ()
    """What depended on it and was overridden by `--force`, one sentence each."""
