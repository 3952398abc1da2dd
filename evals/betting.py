"""Sequential test of a mean by betting: valid however often one looks at the data (anytime-valid).

To test that the mean of bounded numbers is at most m, a gambler starts with wealth 1 and bets a fixed share λ
of it on each number being above m: the wealth is multiplied by 1 + λ (x − m). If the mean is at most m, the
game is not favourable, and by Ville's inequality the wealth ever reaches 1/α with probability at most α, at
any stopping time. Averaging over several gamblers with different λ makes a good guess of λ unnecessary.

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

Large ones decide quickly where few samples differ, small ones where many do.
"""
_NEVER_LOSES = 1e6
"""λ where no number can be below m: a single number above m is then proof enough."""
_BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Wealth:
    """The gamblers' wealth after betting on one statement about a mean."""

    log_wealth: float
    """Natural logarithm of the wealth now."""
    log_peak: float
    """Natural logarithm of the largest wealth so far, including the start (0)."""

    def proves(self, *, alpha: float) -> bool:
        """Whether the statement is proved, at any stopping time, with error probability at most `alpha`."""
        return self.log_peak >= -math.log(alpha)


def bet_above(numbers: ArrayLike, mean: float, *, lowest: float) -> Wealth:
    """The wealth from betting that the mean of `numbers` is above `mean`.

    Args:
        numbers: In the order in which they were drawn; none below `lowest`.
        mean: The null hypothesis is that the true mean is at most this.
        lowest: The smallest number that can be drawn.
    """
    gains = np.asarray(numbers, dtype=np.float64) - mean
    if not gains.size:
        return Wealth(0.0, 0.0)
    path = _log_wealth(gains, most=1 / (mean - lowest) if mean > lowest else _NEVER_LOSES)
    return Wealth(float(path[-1]), max(0.0, float(path.max())))


def bet_on_equal(number: float, mean: float, *, times: int, lowest: float) -> Wealth:
    """The wealth of `bet_above` after a number was drawn so many times."""
    gain = number - mean
    most = 1 / (mean - lowest) if mean > lowest else _NEVER_LOSES
    logs = times * np.log1p(np.asarray(SHARES) * most * gain)
    top = float(logs.max())
    wealth = top + math.log(float(np.exp(logs - top).mean()))
    return Wealth(wealth, max(0.0, wealth))


def bet_below(numbers: ArrayLike, mean: float, *, highest: float) -> Wealth:
    """The wealth from betting that the mean of `numbers` is below `mean`: `bet_above`, mirrored."""
    return bet_above(-np.asarray(numbers, dtype=np.float64), -mean, lowest=-highest)


def anytime_lower_bound(numbers: ArrayLike, *, lowest: float, highest: float, alpha: float) -> float:
    """The largest m for which the mean is proved to be above m at level `alpha`, at any stopping time."""
    low, high = lowest, highest
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if bet_above(numbers, middle, lowest=lowest).proves(alpha=alpha):
            low = middle
        else:
            high = middle
    return low


def _log_wealth(gains: NDArray[np.float64], *, most: float) -> NDArray[np.float64]:
    """Logarithm of the gamblers' mean wealth after each number."""
    stakes = np.asarray(SHARES)[:, None] * most
    logs = np.cumsum(np.log1p(stakes * gains[None, :]), axis=1)
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)), dtype=np.float64)
