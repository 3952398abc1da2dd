"""Reproducible random draws: the same on every machine and every Python version.

Only `random.Random.random` is guaranteed to be stable between Python versions, so everything is built on it.
"""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")


class Draw:
    """A seeded stream of choices.

    Args:
        seed: The same seed always gives the same stream.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def below(self, limit: int) -> int:
        """Return an integer from 0 up to, not including, `limit`."""
        return int(self._random.random() * limit)

    def chance(self, share: float) -> bool:
        """Return True in `share` of the calls."""
        return self._random.random() < share

    def pick(self, items: Sequence[T]) -> T:
        """Return one of `items`."""
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], *, count: int) -> list[T]:
        """Return `count` of `items` in a random order, each at most once."""
        pool = list(items)
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def shuffle(self, items: Sequence[T]) -> list[T]:
        """Return all of `items` in a random order."""
        return self.sample(items, count=len(items))

    def other(self, items: Sequence[T], *, than: Sequence[T]) -> T:
        """Return one of `items` that is not in `than`."""
        return self.pick([item for item in items if item not in than])
