"""The promise: which artifact a node (or a fleet of nodes) serves, and the quality it has evidence for.

A plain value: it knows no loaded model, no web server and no machine. `agree` (terms.py) holds a caller's
terms against it; `alternatives` says what a decision would allow instead.
"""

from __future__ import annotations

import re
from typing import Final

from pydantic import Field

from matrices.cells.levels import earned_tiers
from matrices.releases.release import Release, ReleasedCell
from matrices.resolve.resolve import Decision
from registry.artifact import Manifest
from registry.digest import Digest, short
from registry.errors import ConfigurationError
from registry.value import Value
from serving.contract.problems import Json

_REGION: Final = re.compile(r"[A-Za-z0-9._-]+")


class Promise(Value):
    """What callers are promised."""

    artifact: Digest
    cell: str | None = None
    """Id of the cell; None: a bundle that no release has approved, which has no tier."""
    release: str | None = None
    """Name of the release that approved it."""
    release_digest: Digest | None = None
    tiers: dict[str, int | None] = Field(default={})
    """Task type that there is evidence for → tier earned; None: none was."""
    models: tuple[str, ...] = Field(min_length=1)
    """Names under which callers may ask for it; the first is the one that is listed."""
    family: str
    checkpoint: str
    recipe: str
    target: str
    runtime: str
    """Format of the artifact, and name of its runtime."""
    licence: str
    region: str | None = None
    default_task: str | None = None
    """Task type of callers that name none."""
    context_tokens: int = Field(ge=1)
    """Longest prompt with its answer."""
    sequences: int = Field(default=1, ge=1)
    """Sequences answered at the same time; more wait."""

    @property
    def subject(self) -> str:
        """The cell's id, or what is known of a bundle without one."""
        if self.cell is not None:
            return f"`{self.cell}`"
        return f"artifact {short(self.artifact)}, which no release has approved"

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task types that there is evidence for."""
        return tuple(self.tiers)

    def tier(self, task: str | None) -> int | None:
        """The tier earned for a task type; for None the tier that holds for every one of them."""
        wanted = list(self.tiers.values()) if task is None else [self.tiers.get(task)]
        known = [tier for tier in wanted if tier is not None]
        return max(known) if known and len(known) == len(wanted) else None


def check_region(region: str) -> str:
    """The region itself, if a header of every answer can hold it.

    Raises:
        ConfigurationError: It cannot.
    """
    if not _REGION.fullmatch(region):
        raise ConfigurationError(
            f"`{region}` cannot be the name of a region", hint="use a-z, A-Z, 0-9, `-`, `_`, `.`"
        )
    return region


def make_promise(
    manifest: Manifest,
    *,
    context_tokens: int,
    sequences: int,
    cell: ReleasedCell | None = None,
    release: Release | None = None,
    region: str | None = None,
    default_task: str | None = None,
) -> Promise:
    """The promise of whoever serves an artifact.

    Args:
        manifest: The artifact.
        context_tokens: Longest prompt with its answer.
        sequences: Sequences answered at the same time.
        cell: The approved cell that it is of; None: it has no tier.
        release: The release that approved it.
        region: Where it is served.
        default_task: Task type of callers that name none.

    Raises:
        ConfigurationError: No answer can name that region.
    """
    name = manifest.checkpoint.partition("/")[0]
    names = [manifest.family, name, manifest.checkpoint, manifest.digest]
    return Promise(
        artifact=manifest.digest,
        cell=None if cell is None else cell.cell.id,
        release=None if release is None else release.name,
        release_digest=None if release is None else release.digest,
        tiers={} if cell is None else earned_tiers(cell.cell),
        models=tuple(dict.fromkeys(names if cell is None else [*names, cell.cell.id])),
        family=manifest.family,
        checkpoint=manifest.checkpoint,
        recipe=manifest.recipe,
        target=manifest.target,
        runtime=manifest.format,
        licence=manifest.licence,
        region=None if region is None else check_region(region),
        default_task=default_task,
        context_tokens=context_tokens,
        sequences=sequences,
    )


def alternatives(decision: Decision, *, to: Promise) -> list[Json]:
    """What else a decision found: first what its host could serve, then what one gate keeps from it."""
    found: list[Json] = [
        {"cell": one.id, "tier": one.tier, "here": True, "gate": None, "reason": one.reason}
        for one in decision.candidates
        if one.outcome in ("chosen", "allow") and one.id != to.cell
    ]
    found += [
        {"cell": one.id, "tier": one.tier, "here": False, "gate": one.gate, "reason": one.reason}
        for one in decision.near_misses
        if one.id != to.cell
    ]
    return found
