"""Sampling: from a row of logits to a token, and to log-probabilities.

Each sequence has its own random generator, so that a seed gives the same tokens whatever runs beside it.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from compilers.runtime import FloatArray
from registry.errors import LoadError

IntArray = NDArray[np.int64]

LEAST_TEMPERATURE = float(np.finfo(np.float64).tiny)
"""Below it drawing is greedy: libraries may set the processor to take smaller numbers for zero."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn."""

    temperature: float = 1.0
    """0: the most likely token, always."""
    top_p: float = 1.0
    """Smallest set of tokens whose probabilities reach this sum; 1: all."""
    top_k: int | None = None
    """This many most likely tokens; None: all."""
    seed: int | None = None
    """None: from the operating system."""
    stream: int = 0
    """Tells apart the choices of one request that share a seed."""


class Sampler:
    """Draws the tokens of one sequence."""

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed & (2**64 - 1)
        self._random = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, sampling.stream])))

    def draw(self, logits: NDArray[np.float32]) -> int:
        """A token for one position.

        Args:
            logits: Shape [vocab].

        Raises:
            LoadError: The logits are not numbers: the artifact computes nonsense here.
        """
        best = int(logits.argmax())
        _check_best(logits, best=best)
        if self._sampling.temperature < LEAST_TEMPERATURE:
            return best
        return self._draw(logits)

    def _draw(self, logits: NDArray[np.float32]) -> int:
        sampling = self._sampling
        # The best score is 0 before the division, so that no temperature makes it infinite.
        with np.errstate(over="ignore"):
            relative = (logits.astype(np.float64) - float(logits.max())) / sampling.temperature
        tokens, scores = _candidates(relative, top_k=sampling.top_k)
        weights = np.exp(scores)
        if sampling.top_p < 1.0:
            order = np.argsort(-weights, kind="stable")
            cumulative = np.cumsum(weights[order])
            kept = order[: int(np.searchsorted(cumulative, sampling.top_p * cumulative[-1])) + 1]
            tokens, weights = tokens[kept], weights[kept]
        cumulative = np.cumsum(weights)
        # Below the total, even where the product is rounded up to it: a token without weight is never drawn.
        place = min(self._random.random() * cumulative[-1], np.nextafter(cumulative[-1], 0.0))
        return int(tokens[np.searchsorted(cumulative, place, side="right")])


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The log-probability of one token, and of the most likely ones at its place."""

    token: int
    logprob: float | None
    """Natural logarithm; None for a first token, which nothing predicts."""
    top: tuple[tuple[int, float], ...] = ()
    """(token, log-probability), the most likely first. The entry of `token` is the very same float."""


def logprobs(logits: FloatArray, *, tokens: list[int], top: int) -> list[TokenLogprob]:
    """Log-probabilities of `tokens` under the rows of `logits`.

    Args:
        logits: Shape [len(tokens), vocab].
        tokens: The token that followed each row.
        top: How many of the most likely tokens to name at each place.

    Raises:
        LoadError: The logits are not numbers: the artifact computes nonsense here.
    """
    if not tokens:
        return []
    highest = logits.max(axis=-1)
    for row in logits[~np.isfinite(highest)]:
        _check_best(row, best=int(row.argmax()))
    totals = np.log(np.exp(logits - highest[:, None]).sum(axis=-1, dtype=np.float64))
    return [
        _logprob(logits[i], token=token, highest=float(highest[i]), total=float(totals[i]), top=top)
        for i, token in enumerate(tokens)
    ]


def _check_best(row: NDArray[np.float32], *, best: int) -> None:
    """Refuse logits with NaN (which `argmax` gives first) or infinity, and those that leave no token."""
    if not np.isfinite(row[best]):
        raise LoadError(
            f"the session gave a logit of {row[best]} for token {best}",
            hint="the artifact is damaged or does not run on this machine; pull it again",
        )


def _logprob(row: NDArray[np.float32], *, token: int, highest: float, total: float, top: int) -> TokenLogprob:
    best = _most_likely(row, count=top)
    return TokenLogprob(
        token=token,
        logprob=(float(row[token]) - highest) - total,
        top=tuple((int(i), (float(row[i]) - highest) - total) for i in best),
    )


def _most_likely(row: NDArray[np.float32], *, count: int) -> IntArray:
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    if count == 1:
        return np.array([row.argmax()], dtype=np.int64)
    count = min(count, len(row))
    kept = np.argpartition(-row, count - 1)[:count]
    return kept[np.lexsort((kept, -row[kept]))].astype(np.int64)


def _candidates(
    scores: NDArray[np.float64], *, top_k: int | None
) -> tuple[NDArray[Any], NDArray[np.float64]]:
    if top_k is None or top_k >= len(scores):
        return np.arange(len(scores)), scores
    kept = np.sort(np.argpartition(-scores, top_k - 1)[:top_k])
    return kept, scores[kept]
