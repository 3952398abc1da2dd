"""Releases: what a release holds, as values; a frozen, signed set of approved cells, read offline by nodes.

On disk a release is a directory with `release.json` (this value) and `release.sig` (an OpenSSF model-signing
signature over it). Resolution reads nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, Literal

from pydantic import Field

from matrices.cells.cell import Cell
from registry.artifact import Manifest
from registry.digest import Digest, digest_value
from registry.ladder import EvidenceLevel
from registry.value import Grown, Value

SchemaVersion = Literal[1, 2]
SCHEMA_VERSION: Final = 2
"""What is written. Version 2 added means, drivers, speeds and demanded evidence; version 1 is still read."""


class Approval(Value):
    """Who approved a cell, and why."""

    who: str
    why: str
    at: datetime
    artifact: Digest
    """The artifact that was looked at; an approval holds for no other."""
    waiver: str | None = None
    """Text of the explicit waiver, where the evidence alone would not have sufficed."""


class ReleasedCell(Value):
    """An approved cell with its manifest."""

    cell: Cell
    manifest: Manifest
    approval: Approval


class UnreleasedCell(Value):
    """A cell that is not released, so that a node can say why it was not taken."""

    id: str
    target: str
    state: str
    reason: str
    tasks: dict[str, int | None] = Field(default={})
    """Task type → tier earned."""


class Release(Grown):
    """The snapshot."""

    LATER: ClassVar[tuple[str, ...]] = ("min_evidence",)

    schema_version: SchemaVersion = SCHEMA_VERSION
    name: str
    family: str
    created_at: datetime
    created_by: str
    ladder_digest: Digest
    tiers: int
    """Number of tiers of the ladder."""
    tasks: tuple[str, ...]
    cells: tuple[ReleasedCell, ...]
    """Sorted by id."""
    others: tuple[UnreleasedCell, ...] = ()
    """Every cell of the ladder that was not released, with the reason; sorted by id."""
    min_evidence: dict[str, EvidenceLevel] = Field(default={})
    """Target → least evidence that the release demands; of targets that are not named it demands none."""

    @property
    def digest(self) -> str:
        """The release's digest."""
        return digest_value(self)

    def is_same_content(self, other: Release) -> bool:
        """Whether the two say the same, whoever created them and whenever."""
        made = {
            "created_at": self.created_at,
            "created_by": self.created_by,
            "schema_version": self.schema_version,
        }
        return self == other.model_copy(update=made)
