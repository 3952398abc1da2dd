"""Tango's score interval for the difference of two proportions measured on the same samples.

T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
design", Statistics in Medicine 17 (1998) 891-908. It keeps its level where discordant pairs are few, the
usual case here, where Wald's interval collapses to a point.
"""

from __future__ import annotations

import math
from statistics import NormalDist

_STEPS = 60
"""Halvings of an interval of length 2: beyond the precision of a double."""


def score_statistic(*, gains: int, losses: int, samples: int, difference: float) -> float:
    """The score statistic of H0: p(variant) − p(reference) = `difference`; large: evidence for more.

    Args:
        gains: Samples that the variant has right and the reference wrong.
        losses: Samples that the variant has wrong and the reference right.
        samples: All pairs.
        difference: Between -1 and 1, both excluded.
    """
    a = 2 * samples
    b = -gains - losses + (2 * samples - gains + losses) * difference
    c = -losses * difference * (1 - difference)
    # The constrained estimate of the share of losses: the larger root of a q² + b q + c = 0.
    share = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = samples * (2 * share + difference * (1 - difference))
    excess = gains - losses - samples * difference
    if variance <= 0:
        return math.copysign(math.inf, excess) if excess else 0.0
    return excess / math.sqrt(variance)


def lower_bound(*, gains: int, losses: int, samples: int, alpha: float) -> float:
    """The one-sided lower confidence bound of the difference at `alpha`; -1 without samples."""
    quantile = NormalDist().inv_cdf(1 - alpha)
    if samples == 0:
        return -1.0
    low, high = -1.0, (gains - losses) / samples
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if score_statistic(gains=gains, losses=losses, samples=samples, difference=middle) > quantile:
            low = middle
        else:
            high = middle
    return low


def upper_bound(*, gains: int, losses: int, samples: int, alpha: float) -> float:
    """The one-sided upper confidence bound of the difference: the lower one with the roles exchanged."""
    return -lower_bound(gains=losses, losses=gains, samples=samples, alpha=alpha)
