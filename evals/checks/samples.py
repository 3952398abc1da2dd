"""Whether a task type has enough samples for its margin: arithmetic that needs no evaluation.

With n samples the smallest difference that can be proved grows as n shrinks, whatever is evaluated. A ladder
whose margin no artifact could be proved to keep is refused before anything is built.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from evals.judge import needed_samples
from evals.tango import lower_bound
from evals.verdict import Bar
from registry.errors import ConfigurationError
from registry.ladder import TaskEntry

EXPECTED_CHANGES: Final = 0.02
"""Share of answers, in each direction, that a quantized artifact may easily give differently. What a given
one does is known only after its evaluation: fewer samples than that takes are worth a warning, not more."""


@dataclass(frozen=True, slots=True)
class SampleNeed:
    """The samples that a margin takes."""

    at_least: int
    """With fewer, not even an artifact with the same answers as its checkpoint can be proved non-inferior."""
    with_changes: int
    """For an artifact that gains and loses `EXPECTED_CHANGES` of the answers."""


def samples_for(entry: TaskEntry) -> SampleNeed:
    """The samples that a task type's margin takes."""
    bar = _bar(entry)
    least = needed_samples(bar=bar)
    low, high = least, least
    while not _carries(high, bar):
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _carries(middle, bar) else (middle + 1, high)
    return SampleNeed(least, low)


def smallest_margin(samples: int, *, alpha: float) -> float:
    """The smallest margin, in tenths of a point, that so many samples can prove."""
    low, high = 1, 1000
    while low < high:
        middle = (low + high) // 2
        bar = Bar(tier=1, floor=0, margin_points=middle / 10, alpha=alpha)
        low, high = (low, middle) if needed_samples(bar=bar) <= samples else (middle + 1, high)
    return low / 10


def check_samples(task_type: str, entry: TaskEntry, *, available: int | None) -> str | None:
    """A warning if a task type's samples are hardly enough for its margin.

    Args:
        task_type: Its name.
        entry: Its table in the ladder.
        available: Its samples, as far as they are known; None: `max_samples` alone limits them.

    Raises:
        ConfigurationError: No artifact without any difference could pass.
    """
    samples = entry.max_samples if available is None else available
    if samples is None:
        return None
    need = samples_for(entry)
    carried = smallest_margin(samples, alpha=entry.alpha)
    shown = f"task.{task_type} takes {samples:,} samples for margin_points = {entry.margin_points:g}"
    if samples < need.at_least:
        raise ConfigurationError(
            f"{shown}, which takes {need.at_least:,}: not even an artifact that answers just as its "
            "checkpoint could be proved to keep it",
            hint=f"give it {need.at_least:,} samples or more, or `margin_points = {carried:g}` or more",
        )
    if samples < need.with_changes:
        return (
            f"{shown}: an artifact that gains and loses {EXPECTED_CHANGES:.0%} of the answers will be held; "
            f"{need.with_changes:,} samples would let it pass"
        )
    return None


def _bar(entry: TaskEntry) -> Bar:
    return Bar(tier=1, floor=0, margin_points=entry.margin_points, alpha=entry.alpha)


def _carries(samples: int, bar: Bar) -> bool:
    """Whether all of so many samples prove the margin, by Tango's bound, for as many gains as losses."""
    changes = math.ceil(EXPECTED_CHANGES * samples)
    bound = lower_bound(gains=changes, losses=changes, samples=samples, alpha=bar.alpha / 2)
    return bound > -bar.margin_points / 100
