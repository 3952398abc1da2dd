"""Create a release: freeze a ladder's approved cells with their manifests, and all others with the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from matrices.cells.cell import Cell
from matrices.cells.levels import demand_unmet, earned_tiers
from matrices.releases.files import check_name
from matrices.releases.release import Release, ReleasedCell, UnreleasedCell
from matrices.releases.ruling import Approval
from registry.artifact import Manifest
from registry.digest import Digest
from registry.errors import ConfigurationError, CorruptError, RefusedError
from registry.ladder import EvidenceLevel

VALID_DAYS: Final = 365
"""How long a release may be served from, unless its maker says otherwise."""


def create_release(
    cells: Iterable[Cell],
    *,
    name: str,
    family: str,
    created_by: str,
    ladder_digest: Digest,
    tiers: int,
    tasks: Iterable[str],
    approvals: Mapping[str, Approval],
    manifest_of: Callable[[str], Manifest],
    created_at: datetime | None = None,
    min_evidence: Mapping[str, EvidenceLevel] | None = None,
    version: int = 1,
    expires_at: datetime | None = None,
    revocations: int = 0,
) -> Release:
    """Freeze a ladder's cells: the approved ones with their manifests, all others with the reason.

    Args:
        cells: Every cell of the ladder.
        name: Lower-case letters, digits, `.`, `_` and `-`; at most 64.
        family: The ladder's family.
        created_by: The person who creates it.
        ladder_digest: Digest of the ladder.
        tiers: Number of tiers of the ladder.
        tasks: Task types of the ladder.
        approvals: Cell id → its approval, for every approved cell.
        manifest_of: Artifact digest → manifest, such as `Store.find_artifact`.
        created_at: Time of creation; None: now.
        min_evidence: Target → least evidence that the release demands; None: none beyond the approval.
        version: One more than that of the family's latest release.
        expires_at: When nodes stop serving from it; None: after `VALID_DAYS`.
        revocations: Version of the revocation list.

    Raises:
        ConfigurationError: The name is not valid, or `created_by` is empty.
        RefusedError: No cell is approved, an approved one lacks its approval, or has less evidence than is
            demanded for its target.
        CorruptError: A manifest does not belong to its cell.
    """
    check_name(name)
    if not created_by.strip():
        raise ConfigurationError(
            f"release `{name}`: the person who creates it is not named", hint="name them with `--by`"
        )
    own = sorted((cell for cell in cells if cell.family == family), key=lambda cell: cell.id)
    released = [_released(cell, approvals, manifest_of) for cell in own if cell.state == "approved"]
    if not released:
        raise RefusedError(
            f"release `{name}` would be empty: none of {len(own)} cells of `{family}` is approved",
            hint="approve cells first: `rung approve CELL --by WHO --reason WHY`",
        )
    demands = dict(sorted((min_evidence or {}).items()))
    _refuse_below_demand(name, [one.cell for one in released], demands=demands)
    made_at = created_at or datetime.now(UTC)
    return Release(
        name=name,
        family=family,
        created_at=made_at,
        created_by=created_by.strip(),
        ladder_digest=ladder_digest,
        tiers=tiers,
        tasks=tuple(sorted(set(tasks))),
        cells=tuple(released),
        others=tuple(_unreleased(cell) for cell in own if cell.state != "approved"),
        min_evidence=demands,
        version=version,
        expires_at=expires_at or made_at + timedelta(days=VALID_DAYS),
        revocations=revocations,
    )


def _released(
    cell: Cell, approvals: Mapping[str, Approval], manifest_of: Callable[[str], Manifest]
) -> ReleasedCell:
    approval = approvals.get(cell.id)
    if approval is None or cell.artifact is None or approval.artifact != cell.artifact:
        raise RefusedError(
            f"`{cell.id}` is approved, but no approval of its artifact is on record", hint="approve it again"
        )
    manifest = manifest_of(cell.artifact)
    named = (manifest.digest, manifest.checkpoint, manifest.recipe, manifest.target, manifest.toolchain)
    known = (cell.artifact, cell.checkpoint, cell.recipe, cell.target, cell.toolchain)
    if named != known:
        different = next(f"{a}, not {b}" for a, b in zip(named, known, strict=True) if a != b)
        raise CorruptError(
            f"the manifest of `{cell.id}` is of another artifact: it says {different}",
            hint="run `rung doctor`, then build the cell again",
        )
    return ReleasedCell(cell=cell, manifest=manifest, approval=approval)


def _refuse_below_demand(name: str, cells: list[Cell], *, demands: Mapping[str, EvidenceLevel]) -> None:
    short_of = {cell.id: demand_unmet(cell, demanded=demands.get(cell.target)) for cell in cells}
    found = [f"`{cell}`: {why}" for cell, why in short_of.items() if why]
    if found:
        raise RefusedError(
            f"release `{name}` demands more evidence than {len(found)} approved cells have: "
            + "; ".join(found),
            hint="obtain it on the chip (`rung evidence`), withdraw those cells, or demand less with "
            "`[evidence]` of the ladder or `--min-evidence TARGET=LEVEL`",
        )


def _unreleased(cell: Cell) -> UnreleasedCell:
    reason = cell.reason or {"declared": "never built"}.get(cell.state, "not approved")
    return UnreleasedCell(
        id=cell.id, target=cell.target, state=cell.state, reason=reason, tasks=earned_tiers(cell)
    )
