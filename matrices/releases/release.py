"""Releases: a frozen, signed set of approved cells with their manifests, which nodes read offline.

On disk a release is a directory with `release.json` (this value) and `release.sig` (an OpenSSF model-signing
signature over it). Resolution reads nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, Literal

from pydantic import Field

from matrices.cells.cell import Cell
from matrices.releases.ruling import Approval
from registry.artifact import Manifest
from registry.digest import Digest
from registry.document import Document, JsonObject, Upgrade
from registry.ladder import EvidenceLevel
from registry.value import Value

_ON: Final = ("runtime", "runtime_version", "chip", "driver", "via")


class ReleasedCell(Value):
    """An approved cell with its manifest."""

    cell: Cell
    manifest: Manifest
    approval: Approval


class UnreleasedCell(Value):
    """A cell that is not in the release, kept so that a node can say why it was not chosen."""

    id: str
    target: str
    state: str
    reason: str
    tasks: dict[str, int | None] = Field(default={})
    """Task type → tier earned."""


def _to_version_2(document: JsonObject) -> JsonObject:
    """Version 2 added emulation, drivers, speeds and demanded evidence, all of which may be absent."""
    return document


def _to_version_3(document: JsonObject) -> JsonObject:
    """Version 3 puts the fields of a measurement in one object; earlier versions had them inline."""
    return document | {
        "cells": [
            released | {"cell": released["cell"] | {"evidence": _nested(released["cell"]["evidence"])}}
            for released in document["cells"]
        ]
    }


def _nested(evidence: list[JsonObject]) -> list[JsonObject]:
    found = []
    for entry in evidence:
        rest = {name: value for name, value in entry.items() if name not in _ON}
        on = {name: entry[name] for name in _ON if entry.get(name) is not None}
        was_measured = set(on) - {"via"} or on.get("via", "chip") != "chip"
        found.append(rest | {"measurement": on | {"at": entry["at"]} if was_measured else None})
    return found


class Release(Document):
    """The signed document."""

    KIND: ClassVar[str] = "release"
    RENEW: ClassVar[str] = "fetch it again, or create it again with `rung release create`"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (_to_version_2, _to_version_3)

    schema_version: Literal[3] = 3
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
    """Target → least evidence that the release demands; it demands none for targets that are not listed."""

    def is_same_content(self, other: Release) -> bool:
        """Whether two releases have the same content, whoever created them and when, in any version."""
        made = {"created_at": self.created_at, "created_by": self.created_by}
        return self.model_copy(update=made) == other.model_copy(update=made)
