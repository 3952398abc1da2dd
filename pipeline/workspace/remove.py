"""Removal of releases and checkpoints: what depends on them, what they free, and the act itself.

What depends on something is never broken in silence: without an explicit word the removal is refused and the
dependants are named. The record of the removal comes first and stays (`matrices/ledger/removal.py`); a killed
removal is finished by the same command.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from matrices.ledger.removal import Removal, RemovedKind
from matrices.releases.release import Release
from pipeline.executors.scratch import remove_stale_scratch
from pipeline.workspace.garbage import survey
from pipeline.workspace.upkeep import drop_unused
from registry.atomic import SUFFIX, storage_errors, sweep
from registry.checkpoint import Checkpoint
from registry.digest import Digest
from registry.errors import NotFoundError, RefusedError, UnknownNameError
from registry.mlflow import Checkpoints
from registry.upkeep import collect, freed_bytes
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Plan:
    """A removal that is not carried out yet."""

    kind: RemovedKind
    name: str
    digest: Digest
    dependants: tuple[str, ...]
    """What depends on it, one sentence each; it is removed only by an explicit word if there is any."""
    remains: tuple[str, ...]
    """What stays of it, one sentence each."""
    blobs: frozenset[str]
    """Digests of blobs that nothing else needs."""
    freed_bytes: int
    keep: frozenset[str]
    """Digests that a collection must keep (`registry/upkeep.py`)."""
    act: Callable[[], None] = field(repr=False)
    """Removes all but the blobs."""


def plan_release_removal(
    workspace: Workspace, name: str, *, database: Database, checkpoints: Checkpoints
) -> Plan:
    """What the removal of a release takes and breaks.

    Raises:
        NotFoundError: There is no such release, or it was removed already.
    """
    releases = query.all_releases(database)
    release = next((one for one in releases if one.name == name), None)
    if release is None:
        unknown = UnknownNameError.of("release", name, known=[one.name for one in releases])
        raise NotFoundError(unknown.message, hint=unknown.hint)
    directory = workspace.releases / name
    removed = next((one for one in query.removals(database, kind="release") if one.name == name), None)
    if removed is not None and not directory.exists():
        raise NotFoundError(
            f"release `{name}` was removed by {removed.who} at {removed.at:%Y-%m-%d %H:%M}Z: {removed.why}",
            hint="`rung release list` lists those that are there",
        )
    return _plan(
        workspace,
        "release",
        name,
        release.digest,
        dependants=_dependants_of_release(release, workspace=workspace, database=database),
        remains=("its document and this removal stay in the database", "its name is not used again"),
        own=(directory / "release.json", directory / "release.sig"),
        database=database,
        checkpoints=checkpoints,
        act=lambda: _remove_directory(directory),
    )


def plan_checkpoint_removal(
    workspace: Workspace, ref: str, *, database: Database, checkpoints: Checkpoints
) -> Plan:
    """What the removal of a checkpoint takes and breaks.

    Raises:
        NotFoundError: There is no such checkpoint.
        RegistryError: MLflow cannot be used.
    """
    checkpoint = checkpoints.find(ref)
    copy = checkpoints.local_copy(checkpoint)
    cells = [cell for cell in query.cells(database) if cell.checkpoint == checkpoint.ref]
    remains = []
    if cells:
        remains.append(
            f"{len(cells)} cells stay in the matrix with their evidence, and cannot be built again"
        )
    if copy is None:
        remains.append("MLflow keeps its files until `mlflow gc` runs where they are")
    return _plan(
        workspace,
        "checkpoint",
        checkpoint.ref,
        checkpoint.digest,
        dependants=_dependants_of_checkpoint(checkpoint, database=database, checkpoints=checkpoints),
        remains=tuple(remains),
        own=tuple(path for path in copy.rglob("*") if path.is_file()) if copy is not None else (),
        database=database,
        checkpoints=checkpoints,
        act=lambda: checkpoints.remove(checkpoint),
    )


def carry_out(
    plan: Plan, *, workspace: Workspace, database: Database, who: str, why: str, force: bool
) -> Removal:
    """Carry out a removal; for a process that holds the writers' lock alone since before the plan.

    Raises:
        RefusedError: Something depends on it and `force` is not given.
        ConfigurationError: `who` or `why` is empty.
        RegistryError: Something cannot be removed; the same command again removes the rest.
    """
    if plan.dependants and not force:
        raise RefusedError(
            f"{plan.kind} `{plan.name}` is needed: {'; '.join(plan.dependants)}",
            hint="remove or replace what needs it first, or give `--force`, which is put on record",
        )
    workspace.dirty_marker.touch()
    removal = Ledger(database).put_removal(
        Removal(
            kind=plan.kind,
            name=plan.name,
            digest=plan.digest,
            who=who,
            why=why,
            at=datetime.now(UTC),
            overridden=plan.dependants,
        )
    )
    plan.act()
    remove_stale_scratch(workspace.scratch)
    collect(workspace.store, keep=plan.keep, grace_s=0)
    workspace.dirty_marker.unlink(missing_ok=True)
    return removal


def finish_killed(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> None:
    """Remove what a removal left that was killed at its end, when its name was gone already."""
    if workspace.dirty_marker.exists():
        if workspace.releases.is_dir():
            with storage_errors(workspace.releases):
                sweep(workspace.releases)
        remove_stale_scratch(workspace.scratch)
        drop_unused(workspace, database=database, checkpoints=checkpoints)
        workspace.dirty_marker.unlink()


def _plan(
    workspace: Workspace,
    kind: RemovedKind,
    name: str,
    digest: Digest,
    *,
    dependants: tuple[str, ...],
    remains: tuple[str, ...],
    own: tuple[Path, ...],
    database: Database,
    checkpoints: Checkpoints,
    act: Callable[[], None],
) -> Plan:
    before, after = (
        survey(workspace, database=database, checkpoints=checkpoints, wanted=None, grace_s=0, without=without)
        for without in ((), (name,))
    )
    blobs = after.blobs - before.blobs
    paths = (workspace.store.path(one) for one in blobs)
    return Plan(
        kind=kind,
        name=name,
        digest=digest,
        dependants=dependants,
        remains=remains,
        blobs=blobs,
        freed_bytes=freed_bytes((*paths, *own)),
        keep=after.keep,
        act=act,
    )


def _dependants_of_release(release: Release, *, workspace: Workspace, database: Database) -> tuple[str, ...]:
    others = query.releases(database, family=release.family)
    found = [
        f"the node in `{node.relative_to(workspace.root)}` holds it"
        for node in (workspace.node, *sorted(workspace.root.iterdir()))
        if (node / "releases" / release.name / "release.json").is_file() and node != workspace.state
    ]
    newest = max(others, key=lambda one: (one.version, one.created_at), default=release)
    if newest.name == release.name:
        found.append(
            f"it is the newest release of `{release.family}`, and nodes that have had it take no older one"
        )
    return tuple(found)


def _dependants_of_checkpoint(
    checkpoint: Checkpoint, *, database: Database, checkpoints: Checkpoints
) -> tuple[str, ...]:
    ref = checkpoint.ref
    found = []
    for release in query.releases(database):
        held = sum(one.manifest.checkpoint == ref for one in release.cells)
        if held:
            found.append(f"release `{release.name}` was built from it ({held} cells)")
    approved = [cell.id for cell in query.cells(database, checkpoint=ref) if cell.state == "approved"]
    if approved:
        found.append(f"{len(approved)} approved cells were built from it, such as `{approved[0]}`")
    found += [
        f"checkpoint `{one.ref}` has it as its parent" for one in checkpoints.all() if one.parent == ref
    ]
    aliases = [alias for alias, target in checkpoints.aliases(checkpoint.name).items() if target == ref]
    found += [f"the alias `{checkpoint.name}@{alias}` points to it" for alias in aliases]
    return tuple(found)


def _remove_directory(directory: Path) -> None:
    """Take a published directory away at once, then remove its files."""
    if directory.exists():
        with storage_errors(directory):
            directory.rename(directory.parent / f".{directory.name}.{uuid.uuid4().hex}{SUFFIX}")
            sweep(directory.parent, name=directory.name)
