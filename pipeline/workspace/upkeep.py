"""What a workspace refers to, and what nothing refers to: for `rung doctor`, and for the end of a build."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from matrices.cells.cell import LADDER
from matrices.ledger import query
from matrices.ledger.build_records import BuildRecord, blobs_of
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from pipeline.executors.scratch import remove_stale_scratch, stale_scratch
from pipeline.kit import blobs_of_kits
from pipeline.workspace.derive import all_differences, record_difference
from pipeline.workspace.rulings import ruling_problems
from registry.checkpoint import Checkpoint
from registry.errors import RungError
from registry.mlflow import Checkpoints
from registry.store import Store
from registry.upkeep import collect, repair, unused, verify
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """`corrupt`, `missing`, `leftover`, `index`, `orphan`, `scratch`, `record`, `database`,
    `cell`, `ruling`."""
    subject: str
    detail: str


def inspect_workspace(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> list[Finding]:
    """Everything that is wrong in a workspace; reads all of the store's bytes."""
    store = workspace.store
    found = [Finding(p.kind, p.subject, p.detail) for p in verify(store)]
    found += [Finding("database", workspace.database_url, text) for text in database.problems()]
    found += [
        Finding("cell", cell, "; ".join(why) + ": the database was edited outside Rung; build it again")
        for cell, why in all_differences(query.cells(database), database=database, store=store).items()
    ]
    found += [
        Finding("ruling", workspace.database_url, text) for text in ruling_problems(workspace, database)
    ]
    found += [
        Finding("scratch", str(path), "left behind by a build that is gone")
        for path in stale_scratch(workspace.scratch)
    ]
    wanted = references(database, checkpoints=checkpoints) | blobs_of_kits(workspace.kits)
    found += [
        Finding("orphan", digest, "no checkpoint, stage, cell or release refers to it")
        for digest in unused(store, keep=wanted)
    ]
    found += [
        Finding(
            "record", record.key, f"{why}: the database was edited outside Rung; the next build ignores it"
        )
        for record in query.stages(database)
        if (why := record_difference(record, store=store)) is not None
    ]
    found += [
        Finding(
            "record", record.key, f"the {record.stage} stage's output is gone; the next build runs it again"
        )
        for record in _lost_records(store, database)
    ]
    return found


def repair_workspace(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> list[Finding]:
    """Mend what can be mended, and return what was wrong; what was lost is built again by the next build."""
    found = inspect_workspace(workspace, database=database, checkpoints=checkpoints)
    repair(workspace.store)
    remove_stale_scratch(workspace.scratch)
    wanted = references(database, checkpoints=checkpoints) | blobs_of_kits(workspace.kits)
    collect(workspace.store, keep=wanted, grace_s=0)
    Ledger(database).forget_stages(record.key for record in _lost_records(workspace.store, database))
    return found


def references(database: Database, *, checkpoints: Checkpoints) -> set[str]:
    """Digests that something in the workspace refers to: checkpoints, stage outputs, cells and releases."""
    wanted = {checkpoint.digest for checkpoint in checkpoints.all()}
    for record in query.stages(database):
        wanted.update(blobs_of(record.output))
    for cell in query.cells(database):
        wanted.update(digest for digest in (cell.artifact, cell.log) if digest)
        wanted.update(result.scorecard for result in cell.tasks)
    for release in query.releases(database):
        for released in release.cells:
            wanted.add(released.manifest.digest)
            wanted.update(entry.digest for entry in released.manifest.files)
    return wanted


def lost_blobs(
    store: Store, *, database: Database, checkpoints: Iterable[Checkpoint], cells: Collection[str]
) -> list[str]:
    """Blobs that a ladder's checkpoints and cells, approvals or releases need and the store lacks.

    Args:
        store: The content store.
        database: The workspace's.
        checkpoints: Those of the ladder.
        cells: Ids of those of the ladder.

    Returns:
        One sentence each.
    """
    wanted: dict[str, str] = {}
    for checkpoint in checkpoints:
        wanted |= {entry.digest: f"`{checkpoint.ref}`" for entry in checkpoint.files}
    for release in query.releases(database):
        for released in release.cells:
            files = (released.manifest.digest, *(entry.digest for entry in released.manifest.files))
            wanted |= dict.fromkeys(files, f"`{released.cell.id}` of release `{release.name}`")
    for cell in query.cells(database):
        if cell.id not in cells and cell.state != "approved":
            continue
        needed = [result.scorecard for result in cell.tasks]
        if cell.artifact is not None and cell.state in LADDER:
            needed.append(cell.artifact)
            with suppress(RungError):
                needed += [entry.digest for entry in store.find_artifact(cell.artifact).files]
        wanted |= dict.fromkeys(needed, f"`{cell.id}`")
    return [f"{digest} of {owner} is gone" for digest, owner in wanted.items() if not store.has(digest)]


def _lost_records(store: Store, database: Database) -> list[BuildRecord]:
    """Records of finished stages whose outputs are not in the store any more."""
    return [
        record
        for record in query.stages(database)
        if not all(store.has(digest) for digest in blobs_of(record.output))
    ]


def drop_unused(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> list[str]:
    """Remove blobs that nothing refers to, such as those of a build that was killed; their digests.

    Only for a process that holds the workspace's build lock: a running build has blobs that no row names yet.
    """
    wanted = references(database, checkpoints=checkpoints) | blobs_of_kits(workspace.kits)
    return collect(workspace.store, keep=wanted, grace_s=0)
