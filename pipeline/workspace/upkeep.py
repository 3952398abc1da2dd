"""What a workspace refers to, and what nothing refers to: for `rung doctor`, and for the end of a build."""

from __future__ import annotations

from dataclasses import dataclass

from matrices.ledger import query
from matrices.ledger.build_records import blobs_of
from matrices.ledger.db import Database
from pipeline.executors.scratch import remove_stale_scratch, stale_scratch
from pipeline.kit import blobs_of_kits
from pipeline.workspace.derive import all_differences
from registry.mlflow import Checkpoints
from registry.upkeep import collect, repair, unused, verify
from registry.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    kind: str
    """`corrupt`, `missing`, `leftover`, `index`, `orphan`, `scratch`, `record`, `database`,
    `cell`."""
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
            "record", record.key, f"the {record.stage} stage's output is gone; the next build runs it again"
        )
        for record in query.stages(database)
        if not all(store.has(digest) for digest in blobs_of(record.output))
    ]
    return found


def repair_workspace(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> list[Finding]:
    """Mend what can be mended, and return what was wrong; what was lost is built again by the next build."""
    found = inspect_workspace(workspace, database=database, checkpoints=checkpoints)
    repair(workspace.store)
    remove_stale_scratch(workspace.scratch)
    wanted = references(database, checkpoints=checkpoints) | blobs_of_kits(workspace.kits)
    collect(workspace.store, keep=wanted, grace_s=0)
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


def drop_unused(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> list[str]:
    """Remove blobs that nothing refers to, such as those of a build that was killed; their digests.

    Only for a process that holds the workspace's build lock: a running build has blobs that no row names yet.
    """
    wanted = references(database, checkpoints=checkpoints) | blobs_of_kits(workspace.kits)
    return collect(workspace.store, keep=wanted, grace_s=0)
