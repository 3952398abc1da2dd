"""SQLite files as SQLAlchemy URLs: `sqlite:///path/to/file.db`, for paths with any character.

A URL's path ends at `?`, and `%` begins an escape, so both are escaped; SQLAlchemy takes the escapes back
(https://docs.sqlalchemy.org/en/21/core/engines.html#database-urls). Everything else stands as it is.
"""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Final

SQLITE: Final = "sqlite:///"
"""How the URL of a SQLite file begins."""


def sqlite_url(path: Path, *, query: str = "") -> str:
    """The URL of a SQLite file, with options in the form of a URL's query."""
    escaped = str(path).replace("%", "%25").replace("?", "%3F")
    return f"{SQLITE}{escaped}{'?' if query else ''}{query}"


def sqlite_path(url: str) -> Path | None:
    """The file of a URL; None for another database, one in memory, or SQLite's own `file:` URIs."""
    text = url.removeprefix(SQLITE).partition("?")[0]
    if not url.startswith(SQLITE) or not text or text.startswith((":memory:", "file:")):
        return None
    return Path(urllib.parse.unquote(text))


def below(url: str, *, root: Path) -> str:
    """The URL with a relative file placed in a directory; any other URL as it is."""
    path = sqlite_path(url)
    return url if path is None else sqlite_url(root / path, query=url.partition("?")[2])
