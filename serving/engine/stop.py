"""Stop strings: text that ends a generation and is not part of it, wherever the token borders fall.

A stop string may name special tokens, which decoded text leaves out: such a string is sought in the text with
them, every other one in the text that the caller sees.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence


class StopMatcher:
    """Lets text through up to the first stop string; holds back what could still become one.

    Fed the same text in any pieces, it lets the same text through.

    Args:
        stops: The stop strings.
        is_hidden: Whether a stop string is sought in the text with special tokens.
    """

    def __init__(
        self, stops: Sequence[str], *, is_hidden: Callable[[str], bool] = lambda stop: False
    ) -> None:
        given = tuple(stop for stop in stops if stop)
        self._with_specials = tuple(stop for stop in given if is_hidden(stop))
        self._plain = tuple(stop for stop in given if stop not in self._with_specials)
        self._held = ""
        """Text with special tokens that is held back."""
        self._shown: list[int] = []
        """Places in `held` of what the caller sees."""
        self.stopped = False
        """Whether a stop string was seen."""

    @property
    def seeks_special_tokens(self) -> bool:
        """Whether `push_special` can make a difference."""
        return bool(self._with_specials)

    def push(self, text: str) -> str:
        """The part of the text so far that is now certain to be output."""
        if not (self._plain or self._with_specials):
            return text
        return self._append(text, shown=True)

    def push_special(self, text: str) -> str:
        """The same after a special token, whose text the caller does not see."""
        return self._append(text, shown=False)

    def finish(self) -> str:
        """What was held back, now that no more text comes."""
        return self._release(len(self._held))

    def _append(self, text: str, *, shown: bool) -> str:
        if self.stopped:
            return ""
        if shown:
            self._shown += range(len(self._held), len(self._held) + len(text))
        self._held += text
        ends = [*self._ends(self._with_specials, text=self._held, places=None)]
        ends += self._ends(self._plain, text=self._seen, places=self._shown)
        if ends:
            # The stop string that is complete first counts, as if the text came letter by letter.
            self.stopped = True
            out = self._release(min(ends)[1])
            self._held, self._shown = "", []
            return out
        keep = max((_overlap(self._held, stop) for stop in self._with_specials), default=0)
        seen = max((_overlap(self._seen, stop) for stop in self._plain), default=0)
        certain = len(self._held) - keep
        if seen:
            certain = min(certain, self._shown[-seen])
        return self._release(certain)

    @property
    def _seen(self) -> str:
        if len(self._shown) == len(self._held):
            return self._held
        return "".join(self._held[place] for place in self._shown)

    def _ends(
        self, stops: Sequence[str], *, text: str, places: Sequence[int] | None
    ) -> list[tuple[int, int]]:
        """(end, start) in `held` of the first occurrence of each stop string in `text`."""
        found = [(at, at + len(stop)) for stop in stops if (at := text.find(stop)) >= 0]
        if places is None:
            return [(end, start) for start, end in found]
        return [(places[end - 1] + 1, places[start]) for start, end in found]

    def _release(self, length: int) -> str:
        """What the caller sees of the first characters that are held, which are held no longer."""
        shown = [place for place in self._shown if place < length]
        out = self._held[:length] if len(shown) == length else "".join(self._held[p] for p in shown)
        self._held = self._held[length:]
        self._shown = [place - length for place in self._shown[len(shown) :]]
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if stop.startswith(text[-length:]):
            return length
    return 0
