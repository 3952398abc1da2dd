"""Create a release: freeze and sign the approved cells of a ladder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from matrices.releases.create import create_release
from matrices.releases.files import write_release
from matrices.releases.release import Release
from pipeline.build.plan import Filters, make_plan
from registry.errors import UnknownNameError
from registry.ladder import EvidenceLevel, read_ladder
from registry.mlflow import Checkpoints
from registry.workspace import Workspace


def publish(
    workspace: Workspace,
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
        workspace: Where it is kept.
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
    known = next((r for r in query.releases(database, family=ladder.family) if r.name == name), None)
    made = create_release(
        [cell for cell in query.cells(database, family=ladder.family) if cell.id in wanted],
        name=name,
        family=ladder.family,
        created_by=created_by,
        ladder_digest=ladder.digest,
        tiers=len(ladder.tier),
        tasks=ladder.task,
        approvals=query.approvals(database, family=ladder.family),
        manifest_of=workspace.store.find_artifact,
        created_at=known.created_at if known else None,
        min_evidence={**ladder.demanded_evidence(), **(min_evidence or {})},
    )
    made = Ledger(database).put_release(made)
    return made, write_release(made, directory=workspace.releases / name, private_key=workspace.private_key)
