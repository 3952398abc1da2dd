"""Cells: (variant, target, toolchain), their state and their evidence, as values.

`matrices/models.py` stores them, `matrices/ledger.py` alone writes them, `matrices/release.py` freezes them.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from compilers.parity import Parity
from evals.verdict import Verdict
from registry.digest import Digest
from registry.value import Value

State = Literal[
    "declared", "built", "loads", "close", "evaluated", "benchmarked", "approved",
    "failed", "unsupported", "expired", "rejected", "withdrawn",
]  # fmt: skip
"""The ladder of evidence, and the ways off it."""

LADDER: tuple[State, ...] = ("declared", "built", "loads", "close", "evaluated", "benchmarked", "approved")


class TaskResult(Value):
    """What is known of a cell for one task type."""

    task_type: str
    accuracy: float
    samples: int
    available: int
    batch_size: int
    tier: int | None
    """Best tier earned; None: none."""
    verdicts: tuple[Verdict, ...]
    """One for each tier of the ladder, by tier."""
    scorecard: Digest
    """Blob with the per-sample outcomes."""
    tasks_digest: Digest


class Evidence(Value):
    """One step of the evidence ladder, with what it was obtained on."""

    state: State
    digest: Digest | None
    """Artifact that it was obtained on."""
    runtime: str | None = None
    runtime_version: str | None = None
    chip: str | None = None
    at: datetime
    detail: str = ""
    """One line for people."""


class Cell(Value):
    """One cell of the matrix, with all that a release manager looks at."""

    id: str
    """`checkpoint/version:recipe:target:toolchain`, such as `agent-mid/1:w4g32-gptq:cpu-x86-64-v3:tvm`."""
    family: str
    checkpoint: str
    """`name/version`."""
    checkpoint_digest: Digest
    tier: int
    """Place of the checkpoint in the ladder file; the tier *earned* stands in `tasks`."""
    recipe: str
    target: str
    toolchain: str
    state: State
    reason: str = ""
    """Why it failed, is unsupported, was rejected or withdrawn."""
    build_key: Digest | None = None
    artifact: Digest | None = None
    """Digest of the manifest."""
    size_bytes: int | None = None
    parity: Parity | None = None
    tasks: tuple[TaskResult, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    """In the order in which it was obtained."""
    log: Digest | None = None
    """Blob with the lowering's log."""
    updated_at: datetime


def cell_id(*, checkpoint: str, recipe: str, target: str, toolchain: str) -> str:
    """The id of a cell."""
    return f"{checkpoint}:{recipe}:{target}:{toolchain}"
