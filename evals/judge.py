"""Judging a scorecard against a reference and a bar: floor and non-inferiority. Pure functions.

A tier demands two things of a cell, for each task type: a **floor** on its accuracy, and **non-inferiority**
to the tier's reference checkpoint on the same samples. All numbers are shares of samples that are right.

*Non-inferiority.* With X = outcome − reference outcome of a sample and δ the margin, H0 is E[X] ≤ −δ, and a
pass wrongly rejects it with probability at most α. Two tests share α, half each, so that together they err
with probability at most α (the union bound):

- a betting test on X + δ (`evals/betting.py`), valid at any stopping time: it may decide before all samples
  are taken, and it is the only test that may;
- Tango's score bound (`evals/tango.py`), only when all samples were taken: the number of samples is then
  fixed in advance, as that bound needs. It is for outcomes of 0 and 1; for fractions its half goes unused.

Proof of the opposite, E[X] < −δ by the same tests, is a fail. McNemar's test would answer another question
(equality), and the point estimate alone answers none.

*Floor.* A policy threshold on the measured score, not a hypothesis. When all samples were taken it is cleared
if the accuracy is at least the floor. Before that it is cleared, or missed, only if a betting test at level α
proves on which side the accuracy lies, so that an early stop rarely differs from the full run.

*Verdict.* pass: floor cleared and non-inferior. fail: floor missed, or inferior. hold: neither; with all
samples taken it means that this many samples cannot decide it. A better outcome never makes a verdict worse.
The reference judged against itself (the same subject) is non-inferior by definition.

One tier's pass needs all its task types to pass; that takes no correction of α (an intersection-union test:
R. L. Berger, Technometrics 24 (1982) 295-300).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evals.betting import anytime_lower_bound, bet_above, bet_below, bet_on_equal
from evals.scorecard import Outcome, Scorecard
from evals.tango import lower_bound, upper_bound
from evals.verdict import Bar, Verdict
from registry.errors import EvaluationError

Floats = NDArray[np.float64]


def judge(scorecard: Scorecard, *, reference: Scorecard, bar: Bar) -> Verdict:
    """The verdict of one task type against one tier.

    Raises:
        EvaluationError: The two do not cover the same samples, or there are none.
    """
    _check_pair(scorecard, reference)
    values, references = _paired(scorecard.outcomes, _by_sample(reference))
    if not len(values):
        raise EvaluationError(
            f"the scorecard of `{scorecard.task_type}` has no outcome", hint="evaluate it before it is judged"
        )
    complete = len(values) >= scorecard.available
    itself = scorecard.subject == reference.subject and bool((values == references).all())
    difference = values - references
    floor = _decide_floor(values, bar=bar, complete=complete)
    equal = True if itself else _decide_difference(difference, bar=bar, complete=complete)
    bound = 0.0 if itself else _bound(difference, bar=bar, complete=complete)
    reasons = (
        _explain_floor(values, bar=bar, complete=complete, met=floor),
        "it is the reference itself"
        if itself
        else _explain_difference(difference, bar=bar, complete=complete, bound=bound, met=equal),
    )
    return Verdict(
        task_type=scorecard.task_type,
        tier=bar.tier,
        status=_status(floor=floor, difference=equal),
        reason="; ".join(reasons),
        accuracy=float(values.mean()),
        reference_accuracy=float(references.mean()),
        difference_points=100 * float(difference.mean()),
        lower_bound_points=100 * bound,
        samples=len(values),
        floor=bar.floor,
        margin_points=bar.margin_points,
    )


class SequentialJudge:
    """Decides during a run whether every bar is decided: the `until` of `evals.harness.evaluate`.

    Args:
        references: Tier → the scorecard of that tier's reference, over all samples.
        bars: The bars of one task type.
        tasks_digest: Of the evaluation that will call it; None: not checked here (`judge` always checks it).

    Raises:
        EvaluationError: A bar's tier has no reference, or a reference covers other tasks.
    """

    def __init__(
        self,
        *,
        references: Mapping[int, Scorecard],
        bars: Sequence[Bar],
        tasks_digest: str | None = None,
    ) -> None:
        for bar in bars:
            if bar.tier not in references:
                raise EvaluationError(
                    f"tier {bar.tier} has no reference scorecard", hint="evaluate the tier's checkpoint first"
                )
            if tasks_digest is not None and references[bar.tier].tasks_digest != tasks_digest:
                raise _other_tasks(references[bar.tier], tasks_digest)
        self._bars = tuple(bars)
        self._references = {tier: _by_sample(reference) for tier, reference in references.items()}

    def __call__(self, outcomes: Sequence[Outcome]) -> bool:
        """Whether no further sample is needed: each bar is passed or failed.

        Raises:
            EvaluationError: A sample is not among a reference's.
        """
        return all(self._status(outcomes, bar) != "hold" for bar in self._bars) if outcomes else False

    def _status(self, outcomes: Sequence[Outcome], bar: Bar) -> str:
        values, references = _paired(outcomes, self._references[bar.tier])
        floor = _decide_floor(values, bar=bar, complete=False)
        if floor is False:
            return "fail"
        return _status(
            floor=floor, difference=_decide_difference(values - references, bar=bar, complete=False)
        )


def needed_samples(*, bar: Bar) -> int:
    """Fewest samples with which either test proves a variant without any difference non-inferior."""
    margin, alpha = bar.margin_points / 100, bar.alpha / 2
    quantile = NormalDist().inv_cdf(1 - alpha)
    # Tango's statistic without discordant pairs is √(n δ / (1 − δ)).
    low, high = 1, math.floor(quantile**2 * (1 - margin) / margin) + 1
    while low < high:
        middle = (low + high) // 2
        if bet_on_equal(0.0, -margin, times=middle, lowest=-1).proves(alpha=alpha):
            high = middle
        else:
            low = middle + 1
    return high


def _decide_floor(values: Floats, *, bar: Bar, complete: bool) -> bool | None:
    cleared = float(values.mean()) >= bar.floor
    if complete or bar.floor <= 0:
        return cleared
    if cleared:
        return True if bet_above(values, bar.floor, lowest=0).proves(alpha=bar.alpha) else None
    return False if bet_below(values, bar.floor, highest=1).proves(alpha=bar.alpha) else None


def _decide_difference(difference: Floats, *, bar: Bar, complete: bool) -> bool | None:
    margin, alpha = bar.margin_points / 100, bar.alpha / 2
    if bet_above(difference, -margin, lowest=-1).proves(alpha=alpha):
        return True
    tango = complete and _is_binary(difference)
    gains, losses = _discordant(difference)
    if tango and lower_bound(gains=gains, losses=losses, samples=len(difference), alpha=alpha) > -margin:
        return True
    if bet_below(difference, -margin, highest=1).proves(alpha=alpha):
        return False
    if tango and upper_bound(gains=gains, losses=losses, samples=len(difference), alpha=alpha) < -margin:
        return False
    return None


def _status(*, floor: bool | None, difference: bool | None) -> Literal["pass", "fail", "hold"]:
    if floor and difference:
        return "pass"
    return "fail" if floor is False or difference is False else "hold"


def _bound(difference: Floats, *, bar: Bar, complete: bool) -> float:
    """Lower confidence bound of the mean difference, by the tests that are valid at this point."""
    alpha = bar.alpha / 2
    anytime = anytime_lower_bound(difference, lowest=-1, highest=1, alpha=alpha)
    if not (complete and _is_binary(difference)):
        return anytime
    gains, losses = _discordant(difference)
    return max(anytime, lower_bound(gains=gains, losses=losses, samples=len(difference), alpha=alpha))


def _explain_floor(values: Floats, *, bar: Bar, complete: bool, met: bool | None) -> str:
    outcome = {True: "clears", False: "misses", None: "is too close to stop at"}[met]
    early = "" if complete or met is None else " (proved before all samples were taken)"
    return f"accuracy {values.mean():.4f} of {len(values)} samples {outcome} the floor {bar.floor:.4f}{early}"


def _explain_difference(
    difference: Floats, *, bar: Bar, complete: bool, bound: float, met: bool | None
) -> str:
    outcome = {True: "non-inferior", False: "inferior", None: "undecided"}[met]
    needed = needed_samples(bar=bar) if complete and met is None else 0
    few = len(difference) < needed
    return (
        f"{outcome} to the reference: {100 * difference.mean():+.2f} points, lower bound {100 * bound:+.2f}, "
        f"margin {bar.margin_points:.2f}"
        + (f" ({len(difference)} samples: no fewer than {needed} can prove that margin)" if few else "")
    )


def _is_binary(difference: Floats) -> bool:
    return bool(np.isin(difference, (-1.0, 0.0, 1.0)).all())


def _discordant(difference: Floats) -> tuple[int, int]:
    return int((difference == 1).sum()), int((difference == -1).sum())


def _check_pair(scorecard: Scorecard, reference: Scorecard) -> None:
    if scorecard.task_type != reference.task_type:
        raise EvaluationError(
            f"a scorecard of `{scorecard.task_type}` is judged against one of `{reference.task_type}`",
            hint="pair scorecards of one task type",
        )
    if scorecard.tasks_digest != reference.tasks_digest:
        raise _other_tasks(reference, scorecard.tasks_digest)


def _other_tasks(reference: Scorecard, digest: str) -> EvaluationError:
    return EvaluationError(
        f"the reference of `{reference.task_type}` was measured on other tasks, data or order: "
        f"{reference.tasks_digest} against {digest}",
        hint="evaluate the tier's reference again: its tasks, lm-eval or the seed have changed",
    )


def _by_sample(reference: Scorecard) -> dict[tuple[str, int, str], float]:
    return {(o.task, o.doc_id, o.doc_hash): o.value for o in reference.outcomes}


def _paired(
    outcomes: Sequence[Outcome], reference: Mapping[tuple[str, int, str], float]
) -> tuple[Floats, Floats]:
    seen: set[tuple[str, int]] = set()
    others = []
    for outcome in outcomes:
        key = (outcome.task, outcome.doc_id, outcome.doc_hash)
        if key not in reference:
            raise EvaluationError(
                f"sample {outcome.doc_id} of `{outcome.task}` is not among the reference's outcomes",
                hint="evaluate the tier's reference on all samples of these tasks",
            )
        if key[:2] in seen:
            raise EvaluationError(
                f"sample {outcome.doc_id} of `{outcome.task}` appears twice in a scorecard",
                hint="the scorecard is damaged; evaluate again",
            )
        seen.add(key[:2])
        others.append(reference[key])
    return np.asarray([outcome.value for outcome in outcomes]), np.asarray(others)
