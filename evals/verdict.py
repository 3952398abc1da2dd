"""Verdicts: pass, fail or hold of a scorecard for one tier of one task type, and the bar it is judged by."""

from __future__ import annotations

from typing import Literal

from registry.value import Value


class Bar(Value):
    """What a tier demands for one task type."""

    tier: int
    """1 is the best."""
    floor: float
    """Least accuracy, 0 to 1."""
    margin_points: float
    """Non-inferiority margin against the tier's reference, in percentage points."""
    alpha: float = 0.025
    """One-sided error probability of a false pass."""


class Verdict(Value):
    """The judgement of one task type against one tier."""

    task_type: str
    tier: int
    status: Literal["pass", "fail", "hold"]
    """`hold`: the samples do not decide it."""
    reason: str
    """One sentence with the numbers."""
    accuracy: float
    """Mean outcome over all samples of the task type together."""
    reference_accuracy: float
    """Of the tier's reference on the same samples."""
    difference_points: float
    """Accuracy minus reference, in percentage points."""
    lower_bound_points: float
    """One-sided lower confidence bound of the difference: Tango's score bound once all samples were taken,
    before that the betting test's, which holds at any stopping time."""
    samples: int
    floor: float
    margin_points: float


def earned_tier(verdicts: list[Verdict]) -> int | None:
    """The best tier with a pass for one task type; None if no tier is earned."""
    return min((v.tier for v in verdicts if v.status == "pass"), default=None)
