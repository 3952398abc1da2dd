"""Release files: create, sign, write, verify and read `release.json`, offline.

The directory holds `release.json` and `release.sig`, nothing else. It is written beside its place and
renamed, so it is there whole or not at all. The half that reads imports no database: a node has none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, get_args

from pydantic import ValidationError

from matrices.cells.cell import Cell
from matrices.cells.levels import demand_unmet, earned_tiers
from matrices.releases.release import (
    SCHEMA_VERSION,
    Approval,
    Release,
    ReleasedCell,
    SchemaVersion,
    UnreleasedCell,
)
from registry.artifact import Manifest
from registry.atomic import temporary_directory, write_atomically
from registry.digest import Digest, short
from registry.errors import (
    ConfigurationError,
    CorruptError,
    NotFoundError,
    RefusedError,
    RegistryError,
    SchemaError,
    SignatureError,
    StorageFullError,
)
from registry.ladder import EvidenceLevel
from registry.signing import sign, verify
from registry.value import describe

RELEASE_NAME: Final = "release.json"
SIGNATURE_NAME: Final = "release.sig"
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


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
) -> Release:
    """Freeze a ladder's cells: the approved ones with their manifests, all others with the reason.

    Args:
        cells: Every cell of the ladder.
        name: Lower-case letters, digits, `.`, `_` and `-`; at most 64.
        family: The ladder's family.
        created_by: The person.
        ladder_digest: Digest of the ladder.
        tiers: Number of tiers of the ladder.
        tasks: Task types of the ladder.
        approvals: Cell id → its approval, for every approved cell.
        manifest_of: Artifact digest → manifest, such as `Store.find_artifact`.
        created_at: Time of creation; None: now.
        min_evidence: Target → least evidence that the release demands; None: none beyond the approval.

    Raises:
        ConfigurationError: The name is not one, or `created_by` is empty.
        RefusedError: No cell is approved, an approved one lacks its approval, or has less evidence than is
            demanded for its target.
        CorruptError: A manifest is not that of its cell.
    """
    check_name(name)
    if not created_by.strip():
        raise ConfigurationError(f"release `{name}`: nobody creates it", hint="say who with `--by`")
    own = sorted((cell for cell in cells if cell.family == family), key=lambda cell: cell.id)
    released = [_released(cell, approvals, manifest_of) for cell in own if cell.state == "approved"]
    if not released:
        raise RefusedError(
            f"release `{name}` would be empty: none of {len(own)} cells of `{family}` is approved",
            hint="approve cells first: `rung approve CELL --by WHO --reason WHY`",
        )
    demands = dict(sorted((min_evidence or {}).items()))
    _refuse_below_demand(name, [one.cell for one in released], demands=demands)
    return Release(
        name=name,
        family=family,
        created_at=created_at or datetime.now(UTC),
        created_by=created_by.strip(),
        ladder_digest=ladder_digest,
        tiers=tiers,
        tasks=tuple(sorted(set(tasks))),
        cells=tuple(released),
        others=tuple(_candidate(cell) for cell in own if cell.state != "approved"),
        min_evidence=demands,
    )


def check_name(name: str) -> str:
    """The name of a release, if it is one.

    Raises:
        ConfigurationError: It is not; it could not be a directory's or a tag's name everywhere.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigurationError(
            f"`{name}` cannot be the name of a release",
            hint="use 1 to 64 of a-z, 0-9, `.`, `_`, `-`; begin and end with a letter or digit",
        )
    return name


def write_release(release: Release, *, directory: Path, private_key: Path) -> Path:
    """Write and sign a release; the directory is there whole or not at all.

    Writing the same release again changes nothing.

    Args:
        release: What to write.
        directory: To be made; its parent exists or is made.
        private_key: PEM file.

    Returns:
        The directory.

    Raises:
        RefusedError: The directory holds something else.
        SignatureError: The key cannot sign.
        StorageFullError: No space is left.
        RegistryError: The directory cannot be written.
    """
    check_name(release.name)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return _same_already(release, directory)
    document = (release.model_dump_json(indent=1) + "\n").encode()
    try:
        with temporary_directory(directory) as draft:
            write_atomically(draft / RELEASE_NAME, document)
            sign(draft, signature=draft / SIGNATURE_NAME, private_key=private_key)
            draft.chmod(0o755)
    except StorageFullError:
        raise
    except RegistryError:
        if not (directory / RELEASE_NAME).is_file():
            raise
        return _same_already(release, directory)  # another process was quicker
    return directory


def read_release(directory: Path, *, public_key: Path) -> Release:
    """The release in a directory, after its signature has been verified; needs no network and no database.

    Raises:
        NotFoundError: There is no release.
        SignatureError: The signature is missing, of another key, or over other bytes.
        SchemaError: It was written by a version of another schema.
    """
    path, signature = directory / RELEASE_NAME, directory / SIGNATURE_NAME
    if not path.is_file():
        raise NotFoundError(
            f"no release at `{directory}`", hint=f"give a directory that holds `{RELEASE_NAME}`"
        )
    if not signature.is_file():
        raise SignatureError(
            f"the release at `{directory}` is not signed: `{SIGNATURE_NAME}` is missing",
            hint="fetch the release again; without its signature it is not trusted",
        )
    verify(directory, signature=signature, public_key=public_key)
    return _parse(path)


def _released(
    cell: Cell, approvals: Mapping[str, Approval], manifest_of: Callable[[str], Manifest]
) -> ReleasedCell:
    approval = approvals.get(cell.id)
    if approval is None or cell.artifact is None or approval.artifact != cell.artifact:
        raise RefusedError(
            f"`{cell.id}` is approved, but no approval of its artifact is on record", hint="approve it again"
        )
    manifest = manifest_of(cell.artifact)
    told = (manifest.digest, manifest.checkpoint, manifest.recipe, manifest.target, manifest.toolchain)
    known = (cell.artifact, cell.checkpoint, cell.recipe, cell.target, cell.toolchain)
    if told != known:
        different = next(f"{a}, not {b}" for a, b in zip(told, known, strict=True) if a != b)
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


def _candidate(cell: Cell) -> UnreleasedCell:
    reason = cell.reason or {"declared": "never built"}.get(cell.state, "not approved")
    return UnreleasedCell(
        id=cell.id, target=cell.target, state=cell.state, reason=reason, tasks=earned_tiers(cell)
    )


def _same_already(release: Release, directory: Path) -> Path:
    path = directory / RELEASE_NAME
    if path.is_file() and (directory / SIGNATURE_NAME).is_file():
        standing = _parse(path)
        if standing == release:
            return directory
        what = f"the release `{standing.name}` ({short(standing.digest)})"
    else:
        what = "something that is not a release"
    raise RefusedError(
        f"`{directory}` holds {what}, not `{release.name}` ({short(release.digest)})",
        hint="releases are frozen: choose another name or directory",
    )


def _parse(path: Path) -> Release:
    data = path.read_bytes()
    try:
        return Release.model_validate_json(data)
    except ValidationError as error:
        versions = re.search(rb'"schema_version"\s*:\s*(\d+)', data)
        if versions and int(versions[1]) not in get_args(SchemaVersion):
            found = int(versions[1])
            raise SchemaError(
                f"the release at `{path}` has schema {found}, "
                f"this version of Rung reads up to {SCHEMA_VERSION}",
                hint="upgrade Rung on this machine" if found > SCHEMA_VERSION else "create the release again",
            ) from error
        raise SchemaError(
            f"`{path}` is not a release: {describe(error)}", hint="it is damaged; fetch the release again"
        ) from error
