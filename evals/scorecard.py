"""Scorecards: the outcomes of one artifact on one task type, sample by sample.

A scorecard records the artifact, runtime, chip and batch size, and the tasks it covers (by digest of their
definition and data), so that two of them can be paired sample by sample.
"""

from __future__ import annotations

from datetime import datetime

from evals.prompting import Prompting
from registry.digest import Digest
from registry.value import Value


class Outcome(Value):
    """One sample: right (1.0), wrong (0.0), or a metric's value in between."""

    task: str
    """lm-eval task name."""
    doc_id: int
    doc_hash: str
    """lm-eval's hash of the document; pairs this outcome with the reference's."""
    value: float


class Scorecard(Value):
    """Outcomes of one artifact on one task type."""

    task_type: str
    subject: Digest
    """Digest of the artifact, or of the checkpoint for a reference run in torch."""
    runtime: str
    """`onnxruntime`, `tvm`, or `torch` for a reference."""
    runtime_version: str
    chip: str
    """The processor's own name."""
    tasks_digest: Digest
    """Digest of task definitions, data, prompting, seed and sample order."""
    prompting: Prompting = Prompting()
    """How samples became prompts; cards of earlier versions are all of plain text."""
    batch_size: int
    outcomes: tuple[Outcome, ...]
    """In the order in which samples were taken."""
    available: int
    """Samples that could be taken: all that the task type has, or the ladder's `max_samples`. More than
    `len(outcomes)` after an early stop."""
    tokens: int
    """Tokens scored or generated."""
    seconds: float
    """Time inside the session and harness."""
    measured_at: datetime
    responses: str | None = None
    """What the model answered to the samples of `outcomes`, packed (`evals/responses.py`); None: the card is
    of a version that did not keep them."""

    @property
    def accuracy(self) -> float:
        """Unweighted mean over the lm-eval tasks of the mean outcome; 0 without outcomes."""
        by_task: dict[str, list[float]] = {}
        for outcome in self.outcomes:
            by_task.setdefault(outcome.task, []).append(outcome.value)
        means = [sum(values) / len(values) for values in by_task.values()]
        return sum(means) / len(means) if means else 0.0
