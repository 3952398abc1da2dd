"""Releases: a frozen, signed set of approved cells with their manifests, which nodes read offline.

On disk a release is a directory with `release.json` (this value) and `release.sig` (an OpenSSF model-signing
signature over it). Resolution reads nothing else.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime, Field

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


def _to_version_4(document: JsonObject) -> JsonObject:
    """Version 4 has the release's place in its line, its end and its revocations; earlier ones have none."""
    return document


class Release(Document):
    """The signed document."""

    KIND: ClassVar[str] = "release"
    RENEW: ClassVar[str] = "fetch it again, or create it again with `rung release create`"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (_to_version_2, _to_version_3, _to_version_4)

    schema_version: Literal[4] = 4
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
    version: int = Field(default=0, ge=0)
    """Place among the releases of its family, from 1; a node refuses a lower one than it has had. 0: made
    before releases had a version, older than all others."""
    expires_at: AwareDatetime | None = None
    """From then on nothing is served from it; None: made before releases had an end."""
    revocations: int = Field(default=0, ge=0)
    """Version of the revocation list when it was made; a source that gives an older one withholds it."""

    def expired(self, at: datetime) -> bool:
        """Whether its time is over."""
        return self.expires_at is not None and at >= self.expires_at

    def is_same_content(self, other: Release) -> bool:
        """Whether two releases have the same content, whoever created them and when, in any schema."""
        made = {
            name: getattr(self, name)
            for name in ("created_at", "created_by", "version", "expires_at", "revocations")
        }
        return self.model_copy(update=made) == other.model_copy(update=made)
