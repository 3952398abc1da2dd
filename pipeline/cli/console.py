"""The edge of the console: nothing that a file, a server or a checkpoint says can control the terminal.

Messages quote what others wrote: a server's reason, a name in a release, the text of a template. Escape
sequences in it would move the cursor, change the title, or hide what is printed. So all that is written to
stdout and stderr passes through `printable`, whoever writes it: `print`, logging, a traceback. Only rich,
whose tables and bars need escape sequences, writes past it, and its texts are cleaned before they are drawn.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and line feed, DEL, C1
    "\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff"  # order of writing, line ends, no width
    "\ud800-\udfff]"  # halves of a character, which no encoding has
)


def printable(text: str) -> str:
    """The text with control characters as visible escapes, which are those of JSON and Python."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


@contextmanager
def clean_streams() -> Iterator[None]:
    """For the time of a command, stdout and stderr that write printable text alone."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast("TextIO", _Printable(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class CleanConsole(Console):
    """A rich console that draws printable text, on the terminal itself.

    Args:
        stderr: Whether it draws on stderr.
        width: Columns; None: the terminal's.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        stream = sys.stderr if stderr else sys.stdout
        raw = stream.stream if isinstance(stream, _Printable) else stream
        super().__init__(file=raw, width=width)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The segments of something, their texts cleaned; rich's own control sequences stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


class _Printable:
    """A text stream that writes to another what is printable."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)
