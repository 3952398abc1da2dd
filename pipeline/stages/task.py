"""A task type to evaluate, as requests name it."""

from __future__ import annotations

from evals.verdict import Bar
from registry.digest import Digest
from registry.ladder import TaskEntry
from registry.value import Value


class TaskRequest(Value):
    """One task type to evaluate."""

    key: Digest
    task_type: str
    entry: TaskEntry
    bars: tuple[Bar, ...] = ()
    references: tuple[Digest, ...] = ()
    """Scorecard blobs of the tiers' reference checkpoints, by tier."""
    code: Digest | None = None
    """Digest of the code in its folder that a person has allowed to run."""
    outcomes_key: Digest | None = None
    """Key to report the outcomes under as well, by which they are found when the bars have changed."""
