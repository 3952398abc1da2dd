"""The user's cache: what can be found again, kept between commands so that they start faster."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path

from pydantic import JsonValue

from registry.atomic import write_atomically
from registry.errors import RegistryError


def user_cache() -> Path:
    """The folder in which this user's programs keep what they can find again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "rung"


def read_cached(path: Path) -> JsonValue:
    """What a cache file holds; None where there is none, or a damaged one."""
    try:
        found: JsonValue = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found


def write_cached(path: Path, value: JsonValue) -> None:
    """Write a cache file; without effect where that is not possible, because all can be found again."""
    with contextlib.suppress(RegistryError, OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps(value, separators=(",", ":")).encode())
