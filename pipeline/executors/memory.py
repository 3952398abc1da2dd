"""How much memory the processes of one session hold, read from /proc."""

from __future__ import annotations

import re
from pathlib import Path

_HELD = re.compile(rb"^(?:RssAnon|RssShmem):\s+(\d+) kB$", re.MULTILINE)
_SESSION_FIELD = 3
"""Of `/proc/PID/stat`, counted from the field behind the command's name (proc(5))."""


def held_bytes(session: int) -> int:
    """Memory that the processes of a session hold for themselves; 0 where `/proc` does not tell.

    Mapped files are not counted: the kernel gives their pages back when they are needed.

    Args:
        session: Process id of the session's leader.
    """
    total = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            fields = (directory / "stat").read_bytes().rpartition(b")")[2].split()
            if int(fields[_SESSION_FIELD]) != session:
                continue
            status = (directory / "status").read_bytes()
        except (OSError, IndexError, ValueError):
            continue  # it ended meanwhile
        total += sum(int(kib) * 1024 for kib in _HELD.findall(status))
    return total
