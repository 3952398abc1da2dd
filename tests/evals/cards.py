"""Scorecards out of lists of outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from evals.scorecard import Outcome, Scorecard
from registry.digest import digest_bytes

TASKS = digest_bytes(b"tasks")


def outcomes(values: Sequence[float], *, task: str = "t") -> tuple[Outcome, ...]:
    return tuple(
        Outcome(task=task, doc_id=number, doc_hash=f"{task}{number}", value=float(value))
        for number, value in enumerate(values)
    )


def card(
    values: Sequence[float],
    *,
    subject: str = "variant",
    available: int | None = None,
    tasks_digest: str = TASKS,
    task_type: str = "retrieval",
) -> Scorecard:
    return Scorecard(
        task_type=task_type,
        subject=digest_bytes(subject.encode()),
        runtime="torch",
        runtime_version="2",
        chip="any",
        tasks_digest=tasks_digest,
        batch_size=32,
        outcomes=outcomes(values),
        available=len(values) if available is None else available,
        tokens=1,
        seconds=1.0,
        measured_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
