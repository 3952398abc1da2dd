"""Releases of a workspace: made from a ladder's approved cells, found by name or directory, verified."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from matrices.releases.files import create_release, read_release, write_release
from matrices.releases.release import Release
from pipeline.build.plan import Filters, make_plan
from registry.errors import ConfigurationError, NotFoundError, UnknownNameError
from registry.ladder import EvidenceLevel, read_ladder
from registry.mlflow import Checkpoints
from registry.workspace import Workspace, find_workspace


def publish(
    place: Workspace,
    ladder_file: Path,
    *,
    name: str,
    created_by: str,
    database: Database,
    checkpoints: Checkpoints,
    min_evidence: Mapping[str, EvidenceLevel] | None = None,
) -> tuple[Release, Path]:
    """Freeze and sign a ladder's approved cells; the release and its directory.

    Asking again for the same content under the same name changes nothing, so a killed call can be repeated.

    Args:
        place: The workspace.
        ladder_file: The ladder.
        name: Of the release.
        created_by: The person.
        database: The workspace's.
        checkpoints: The workspace's.
        min_evidence: Target → least evidence, before what the ladder demands.

    Raises:
        RefusedError: No cell is approved, one has less evidence than is demanded, or the name is taken by
            other content.
        UnknownNameError: Evidence is demanded of a target that the ladder does not have.
    """
    ladder = read_ladder(ladder_file)
    for target in min_evidence or {}:
        if target not in ladder.targets:
            raise UnknownNameError.of("target", target, known=ladder.targets, where="this ladder")
    plan = make_plan(
        ladder, directory=ladder_file.resolve().parent, checkpoints=checkpoints, filters=Filters()
    )
    wanted = {cell.id for cell in plan.cells}
    standing = next((r for r in query.releases(database, family=ladder.family) if r.name == name), None)
    made = create_release(
        [cell for cell in query.cells(database, family=ladder.family) if cell.id in wanted],
        name=name,
        family=ladder.family,
        created_by=created_by,
        ladder_digest=ladder.digest,
        tiers=len(ladder.tier),
        tasks=ladder.task,
        approvals=query.approvals(database, family=ladder.family),
        manifest_of=place.store.find_artifact,
        created_at=standing.created_at if standing else None,
        min_evidence={**ladder.demanded_evidence(), **(min_evidence or {})},
    )
    made = Ledger(database).put_release(made)
    return made, write_release(made, directory=directory_of(place, name), private_key=place.private_key)


def directory_of(place: Workspace, name: str) -> Path:
    """Where a workspace keeps a release."""
    return place.releases / name


def find_release(name: str, *, key: Path | None = None) -> tuple[Release, Workspace | None]:
    """A verified release by name or directory, and its workspace where it is one's own.

    Raises:
        NotFoundError: No such release.
        SignatureError: Its signature does not verify.
    """
    directory = Path(name)
    if (directory / "release.json").is_file():
        if key is None:
            key = find_workspace().public_key
        return read_release(directory, public_key=key), None
    place = find_workspace()
    directory = directory_of(place, name)
    if not directory.is_dir():
        parent = place.releases
        known = [path.name for path in parent.iterdir()] if parent.is_dir() else []
        unknown = UnknownNameError.of("release", name, known=known)
        raise NotFoundError(unknown.message, hint=unknown.hint)
    return read_release(directory, public_key=key or place.public_key), place


def newest_release(place: Workspace, *, family: str | None) -> str:
    """The name of the release that was created last, of a family.

    Raises:
        NotFoundError: There is none.
        ConfigurationError: Several families have releases and none is named.
    """
    from matrices.ledger.db import open_database

    found = query.releases(open_database(place.database_url), family=family)
    if not found:
        raise NotFoundError(
            "no release yet" + (f" of `{family}`" if family else ""),
            hint="`rung release create NAME LADDER --by WHO`",
        )
    families = sorted({each.family for each in found})
    if len(families) > 1:
        raise ConfigurationError(
            f"releases of several families: {', '.join(families)}", hint="name one with `--family`"
        )
    return found[-1].name


def verify_blobs(place: Workspace, release: Release) -> None:
    """Check every blob that a release names against its digest.

    Raises:
        NotFoundError: A blob is missing.
        CorruptError: A blob has other bytes.
    """
    seen: set[str] = set()
    for released in release.cells:
        for entry in released.manifest.files:
            if entry.digest not in seen:
                seen.add(entry.digest)
                place.store.read_bytes(entry.digest)
