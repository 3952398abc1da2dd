"""The time that counted work still takes, from how fast it has been since it was first seen."""

from __future__ import annotations

import re
from typing import Final

_COUNTED: Final = re.compile(r"^(.*?)(\d+)/(\d+)$")


class Estimate:
    """Adds the time left to progress of the form `retrieval 120/400`."""

    def __init__(self) -> None:
        self._what = ""
        self._first = 0
        self._since_s = 0.0

    def words(self, text: str, *, now_s: float) -> str:
        """The text with the time left, where it counts and enough was seen to tell."""
        found = _COUNTED.match(text)
        if found is None:
            return text
        what, done, total = found[1], int(found[2]), int(found[3])
        if what != self._what or done < self._first:
            self._what, self._first, self._since_s = what, done, now_s
        seen = done - self._first
        if seen <= 0 or done >= total:
            return text
        left_s = (total - done) * (now_s - self._since_s) / seen
        return f"{text}, about {left_s:,.0f} s left"
