"""Linking compiled objects into a shared library for another machine than this one.

For this machine's own architecture TVM links with the C compiler that it finds. For another one a cross
linker is needed: zig (PyPI `ziglang`), which brings the C library of every architecture and pins glibc 2.28,
so that the library opens on every node that has it or a newer one; or the distribution's cross gcc.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from registry.errors import BuildError, ToolchainMissingError

GLIBC = "2.28"
OPTIONS = ("-Wl,--build-id=none", "-s")
"""Neither a build id nor names of temporary files: equal programs give equal bytes."""
TIMEOUT_S = 600
Link = Callable[..., None]
"""What TVM calls with the library's path, the objects' paths and `options`."""


@dataclass(frozen=True, slots=True)
class Linker:
    """A command that links for an architecture."""

    command: tuple[str, ...]

    def link(self, output: str, objects: Sequence[str] | str, options: Sequence[str] = ()) -> None:
        """Link objects into a shared library.

        Raises:
            BuildError: It failed.
        """
        given = [objects] if isinstance(objects, str) else list(objects)
        command = [*self.command, "-shared", "-fPIC", "-o", output, *options, *given]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise BuildError(f"`{self.command[0]}` could not link: {error}", hint="see the log") from error
        if done.returncode != 0:
            raise BuildError(
                f"`{' '.join(self.command)}` could not link: {done.stderr.strip()[-2000:]}",
                hint="see the log",
            )


def find_linker(architecture: str) -> Linker | None:
    """The linker for an architecture; None for this machine's own, where TVM's default is right.

    Raises:
        ToolchainMissingError: None is installed.
    """
    if architecture == os.uname().machine:
        return None
    if importlib.util.find_spec("ziglang") is not None:
        return Linker((sys.executable, "-m", "ziglang", "cc", "-target", f"{architecture}-linux-gnu.{GLIBC}"))
    if (compiler := shutil.which(f"{architecture}-linux-gnu-gcc")) is not None:
        return Linker((compiler,))
    raise ToolchainMissingError(
        f"nothing here links libraries for {architecture}",
        hint=f"install `rung[aarch64]` (zig), or the package `gcc-{architecture}-linux-gnu`",
    )
