"""The evaluate stage: an artifact's scorecard of one task type, judged against every tier."""

from __future__ import annotations

from evals.verdict import Bar
from matrices.cells.cell import TaskResult
from matrices.cells.measurement import Measurement
from registry.digest import Digest
from registry.ladder import TaskEntry
from registry.value import Value


class EvaluateOutput(Value):
    """One task type of one artifact, judged against every tier."""

    result: TaskResult
    measurement: Measurement


class TaskRequest(Value):
    """One task type to evaluate."""

    key: Digest
    task_type: str
    entry: TaskEntry
    bars: tuple[Bar, ...] = ()
    references: tuple[Digest, ...] = ()
    """Scorecard blobs of the tiers' reference checkpoints, by tier."""
