"""Outside tools that read binaries: where they are found, and running them.

None of them is required: what a missing tool leaves unchecked is a note of the proof.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from registry.errors import ToolchainMissingError

TIMEOUT_S = 300
_NUMBER = re.compile(r"\d+\.\d+(?:\.\d+)*")


@dataclass(frozen=True, slots=True)
class Tool:
    """A program on this machine."""

    name: str
    """With its version: `cuobjdump 13.5.37`."""
    path: str

    def run(self, arguments: Sequence[str], *, folder: Path | None = None) -> str | None:
        """Its output, or None where it fails or hangs."""
        try:
            done = subprocess.run(
                [self.path, *arguments],
                cwd=folder,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


@functools.cache
def find_tool(*names: str) -> Tool | None:
    """The first of some programs that is there: on PATH, or among the wheels of NVIDIA's toolkit."""
    for name in names:
        path = shutil.which(name) or _in_wheels(name)
        if path:
            found = Tool(name, path).run(["--version"])
            numbers = _NUMBER.findall(found or "")
            # cuobjdump says the toolkit's release first and its own version last: the longest is meant.
            version = max(numbers, key=lambda number: number.count("."), default="")
            return Tool(f"{name} {version}".rstrip(), path)
    return None


def package_version(package: str, *, extra: str) -> str:
    """Name and version of an installed package that a proof cannot do without.

    Raises:
        ToolchainMissingError: It is not installed.
    """
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError as error:
        raise ToolchainMissingError(
            f"`{package}` is not installed, and artifacts are proven with it", hint=f"install `rung[{extra}]`"
        ) from error


def _in_wheels(name: str) -> str | None:
    """A program of the PyPI packages `nvidia-cuda-…`, which lie under `nvidia/cuNN/bin`."""
    try:
        found = importlib.util.find_spec("nvidia")
    except (ImportError, ValueError):
        return None
    for folder in [] if found is None else found.submodule_search_locations or ():
        for path in sorted(Path(folder).glob(f"*/bin/{name}"), reverse=True):
            return str(path)
    return None
