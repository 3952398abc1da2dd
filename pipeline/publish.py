"""Create a release: freeze and sign the approved cells of a ladder."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.ledger.ledger import Ledger
from matrices.releases.create import VALID_DAYS, create_release
from matrices.releases.files import write_release
from matrices.releases.lost_tiers import LostTier, lost_tiers
from matrices.releases.release import Release
from matrices.releases.revocations import Revocations, revoked_by, write_revocations
from pipeline.build.plan import BuildPlan, Filters, make_plan
from pipeline.workspace.derive import References, differences, verdict_differences
from pipeline.workspace.releases import verify_blobs
from pipeline.workspace.rulings import check_rulings
from registry.errors import ConfigurationError, CorruptError, RefusedError, UnknownNameError
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
    valid_days: int = VALID_DAYS,
    without_tiers: Collection[int] = (),
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
        valid_days: How long nodes may serve from it.
        without_tiers: Tiers that it may lose.

    Raises:
        RefusedError: No cell is approved, one has less evidence than is demanded, the name is taken by other
            content, the clock is before the family's latest release, or a tier would be lost.
        ConfigurationError: A tier that it may lose is not one of the ladder's.
        CorruptError: A cell is not what its scorecards show, a ruling is not what was signed, or a blob is
            damaged.
        UnknownNameError: Evidence is demanded of a target that the ladder does not have.
    """
    ladder = read_ladder(ladder_file)
    for target in min_evidence or {}:
        if target not in ladder.targets:
            raise UnknownNameError.of("target", target, known=ladder.targets, where="this ladder")
    for tier in without_tiers:
        if not 1 <= tier <= len(ladder.tier):
            raise ConfigurationError(
                f"the ladder has no tier {tier}", hint=f"its tiers are 1 to {len(ladder.tier)}"
            )
    plan = make_plan(
        ladder, directory=ladder_file.resolve().parent, checkpoints=checkpoints, filters=Filters()
    )
    wanted = {cell.id for cell in plan.cells}
    earlier = query.all_releases(database, family=ladder.family)
    known = next((r for r in earlier if r.name == name), None)
    at = datetime.now(UTC)
    if known is None:
        _check_clock(at, earlier)
    revocations = publish_revocations(workspace, database)
    own = [cell for cell in query.cells(database, family=ladder.family) if cell.id in wanted]
    made = create_release(
        own,
        name=name,
        family=ladder.family,
        created_by=created_by,
        ladder_digest=ladder.digest,
        tiers=len(ladder.tier),
        tasks=ladder.task,
        approvals=query.approvals(database, family=ladder.family),
        manifest_of=workspace.store.find_artifact,
        created_at=known.created_at if known else at,
        min_evidence={**ladder.demanded_evidence(), **(min_evidence or {})},
        version=known.version if known else 1 + max((one.version for one in earlier), default=0),
        expires_at=known.expires_at if known else at + timedelta(days=valid_days),
        revocations=known.revocations if known else revocations.version,
    )
    _check_derived(made, workspace=workspace, database=database, plan=plan)
    if known is None:
        latest = max(earlier, key=lambda one: (one.version, one.created_at), default=None)
        lost = lost_tiers(made, latest=latest, cells=own, targets=ladder.targets)
        _refuse_to_lose([one for one in lost if one.tier not in without_tiers], name=name)
    verify_blobs(workspace, made)
    made = Ledger(database).put_release(made)
    return made, write_release(made, directory=workspace.releases / name, private_key=workspace.private_key)


def publish_revocations(workspace: Workspace, database: Database) -> Revocations:
    """Bring the signed list of withdrawn and rejected artifacts up to date with the rulings.

    Raises:
        CorruptError: The rulings are not those that were signed.
        SignatureError: The list that is there is not the workspace's.
        ConfigurationError: The key cannot sign.
    """
    check_rulings(workspace, database)
    return write_revocations(
        revoked_by(query.all_rulings(database)),
        path=workspace.revocations,
        private_key=workspace.private_key,
        public_key=workspace.public_key,
    )


def _check_derived(release: Release, *, workspace: Workspace, database: Database, plan: BuildPlan) -> None:
    """Refuse cells that say more than their scorecards do."""
    store, rulings = workspace.store, query.rulings(database, family=release.family)
    references = References(database, store)
    for released in release.cells:
        cell = released.cell
        found = differences(cell, store=store, ruling=rulings.get(cell.id))
        found += verdict_differences(
            cell,
            store=store,
            references=references,
            checkpoints=[checkpoint.digest for checkpoint in plan.checkpoints],
            alphas={name: task.alpha for name, task in plan.ladder.task.items()},
        )
        if found:
            raise CorruptError(
                f"the database's `{cell.id}` is not what its evidence shows: {'; '.join(found)}",
                hint="it was edited outside Rung, or the ladder's tiers changed: build it again",
            )


def _refuse_to_lose(lost: Sequence[LostTier], *, name: str) -> None:
    if lost:
        flags = " ".join(f"--without-tier {tier}" for tier in sorted({one.tier for one in lost}))
        raise RefusedError(
            f"release `{name}` would lose {'; '.join(one.words for one in lost[:5])}"
            + (f"; and {len(lost) - 5} more" if len(lost) > 5 else ""),
            hint=f"approve a cell that has it (`rung matrix show`), or confirm the loss with `{flags}`",
        )


def _check_clock(at: datetime, earlier: Iterable[Release]) -> None:
    """Refuse a release that would look older than the one that it follows."""
    latest = max(earlier, key=lambda one: one.created_at, default=None)
    if latest is not None and at < latest.created_at:
        raise RefusedError(
            f"the clock says {at:%Y-%m-%d %H:%M}Z, release `{latest.name}` was created "
            f"{latest.created_at:%Y-%m-%d %H:%M}Z",
            hint="set this machine's clock",
        )
