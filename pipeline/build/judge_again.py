"""Judge stored outcomes again: a change of a floor or a margin needs no evaluation where they decide it.

Outcomes do not depend on what they are judged by; the bars decide only when an evaluation stops. So stored
outcomes serve new bars if all samples were taken, or if those that were taken decide every tier. Else the
artifact is evaluated again.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from datetime import datetime

from evals.judge import SequentialJudge
from evals.scorecard import Scorecard
from evals.verdict import Bar
from matrices.cells.cell import LADDER, Cell, Evidence, TaskResult
from matrices.cells.levels import evaluated_on, evidence_level
from matrices.cells.steps import summary_of, task_result
from pipeline.build.plan_records import PlanRecords
from pipeline.build.records import Records
from registry.digest import Digest


def judge_again(
    scorecard: Digest, *, references: Sequence[Digest], bars: Sequence[Bar], records: Records
) -> TaskResult | None:
    """The result of stored outcomes by these bars; None if they do not decide it.

    Args:
        scorecard: Blob of the artifact's outcomes.
        references: Blobs of the outcomes of the tiers' reference checkpoints, by tier.
        bars: What each tier demands.
        records: Reads the blobs.

    Raises:
        CorruptError: A blob is damaged.
    """
    card = _read(scorecard, records)
    against = {bar.tier: _read(digest, records) for bar, digest in zip(bars, references, strict=True)}
    if any(reference.tasks_digest != card.tasks_digest for reference in against.values()):
        return None
    whole = len(card.outcomes) >= card.available
    if not whole and not SequentialJudge(references=against, bars=bars)(card.outcomes):
        return None
    return task_result(card, references=against, bars=bars)


def cell_judged_again(cell: Cell, *, found: PlanRecords, at: datetime) -> Cell | None:
    """A stored cell whose outcomes came from another machine, judged by the ladder's bars of now.

    None: its verdicts are by these bars already, or nothing is stored that decides them.

    Args:
        cell: The stored cell.
        found: The plan and what is recorded of it.
        at: Now.

    Raises:
        CorruptError: A blob is damaged.
    """
    measured = evaluated_on(cell)
    if measured is None or cell.state not in (*LADDER, "portable"):
        return None
    results = tuple(_stored_result(result, found=found) for result in cell.tasks)
    changed = [new for new, old in zip(results, cell.tasks, strict=True) if new != old]
    if not changed:
        return None
    entries = tuple(
        Evidence(
            state="evaluated",
            digest=cell.artifact,
            at=at,
            detail=f"judged again by the ladder's bars: {summary_of(result)}",
            measurement=measured,
        )
        for result in changed
    )
    return cell.model_copy(
        update={
            "state": evidence_level(cell) or cell.state,
            "tasks": results,
            "evidence": (*cell.evidence, *entries),
            "updated_at": at,
        }
    )


def _stored_result(result: TaskResult, *, found: PlanRecords) -> TaskResult:
    if result.task_type not in found.plan.ladder.task:
        return result
    bars = found.plan.bars(result.task_type)
    judged_by = {(v.tier, v.floor, v.margin_points) for v in result.verdicts}
    references = found.references(result.task_type)
    if judged_by == {(bar.tier, bar.floor, bar.margin_points) for bar in bars} or references is None:
        return result
    if not found.records.has(result.scorecard):
        return result
    return judge_again(result.scorecard, references=references, bars=bars, records=found.records) or result


@functools.lru_cache(maxsize=128)  # every cell is held against the same references
def _read(digest: Digest, records: Records) -> Scorecard:
    return Scorecard.model_validate_json(records.read_bytes(digest))
