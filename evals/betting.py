"""Betting on a mean: evidence that stays valid however often one looks at it.

To test that the mean of bounded numbers is at most m, a gambler who owns 1 stakes a fixed share λ of all he
has on each number being above m: his capital is multiplied by 1 + λ (x − m). If the mean is at most m the
game is not in his favour, and by Ville's inequality his capital ever reaches 1/α with probability at most α,
at any stopping time. Several gamblers with different λ, who share the stake, need no good guess of λ.

J. Ville, "Étude critique de la notion de collectif" (1939); I. Waudby-Smith and A. Ramdas, "Estimating means
of bounded random variables by betting", Journal of the Royal Statistical Society B 86 (2024) 1-27.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SHARES = (0.04, 0.1, 0.25, 0.5, 0.8, 0.95, 0.99)
"""λ of the seven gamblers, as shares of the largest λ that cannot ruin them.

The large ones decide quickly where few samples differ, the small ones where many do.
"""
_NEVER_LOSES = 1e6
"""The largest λ where no number can be below m: any number above it is proof enough."""
_BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Wealth:
    """What the gamblers own, for and against one statement about a mean."""

    log_capital: float
    """Natural logarithm of their capital now."""
    log_peak: float
    """Natural logarithm of the largest capital that they ever had, the start (0) included."""

    def proves(self, *, alpha: float) -> bool:
        """Whether the statement holds, wrongly with probability at most `alpha`, at any stopping time."""
        return self.log_peak >= -math.log(alpha)


def bet_above(numbers: ArrayLike, mean: float, *, lowest: float) -> Wealth:
    """Evidence that the mean of `numbers` is above `mean`.

    Args:
        numbers: In the order in which they were drawn; none below `lowest`.
        mean: What is to be refuted is that the mean is at most this.
        lowest: The least number that can be drawn.
    """
    gains = np.asarray(numbers, dtype=np.float64) - mean
    if not gains.size:
        return Wealth(0.0, 0.0)
    path = _log_capital(gains, most=1 / (mean - lowest) if mean > lowest else _NEVER_LOSES)
    return Wealth(float(path[-1]), max(0.0, float(path.max())))


def bet_below(numbers: ArrayLike, mean: float, *, highest: float) -> Wealth:
    """Evidence that the mean of `numbers` is below `mean`: `bet_above` in the mirror."""
    return bet_above(-np.asarray(numbers, dtype=np.float64), -mean, lowest=-highest)


def anytime_lower_bound(numbers: ArrayLike, *, lowest: float, highest: float, alpha: float) -> float:
    """The largest m such that the mean is proved to be above m at `alpha`, at any stopping time."""
    low, high = lowest, highest
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if bet_above(numbers, middle, lowest=lowest).proves(alpha=alpha):
            low = middle
        else:
            high = middle
    return low


def _log_capital(gains: NDArray[np.float64], *, most: float) -> NDArray[np.float64]:
    """Log of the mean capital of the gamblers after each number."""
    stakes = np.asarray(SHARES)[:, None] * most
    logs = np.cumsum(np.log1p(stakes * gains[None, :]), axis=1)
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)), dtype=np.float64)
