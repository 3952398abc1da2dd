"""Patches of the how-to pages, applied to a copy of the tree: what a change costs is shown by making it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = ("registry", "compilers", "evals", "matrices", "serving", "pipeline")


@dataclass(frozen=True)
class Tree:
    """A copy of the packages."""

    path: Path

    def files(self) -> dict[str, bytes]:
        """Path → bytes of every file, without what Python compiled."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and "__pycache__" not in path.parts
        }

    def python(self, *arguments: str, code: int = 0, at: Path | None = None) -> str:
        """Run Python on the copy; its standard output.

        Args:
            *arguments: Of the interpreter.
            code: The exit status that is expected.
            at: Directory to run in; None: the copy.
        """
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=at or self.path,
            env={**os.environ, "PYTHONPATH": str(self.path), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout


@contextlib.contextmanager
def applied(name: str, *, to: Path) -> Iterator[tuple[Tree, set[str]]]:
    """A copy of the tree with `docs/how-to/patches/NAME` applied, and the files that the patch touches.

    Afterwards the patch is reverted, and the copy must be what it was.
    """
    for package in PACKAGES:
        shutil.copytree(ROOT / package, to / package, ignore=shutil.ignore_patterns("__pycache__", "family"))
    for extra in ("pyproject.toml", "tests", "docs", "README.md"):
        if (source := ROOT / extra).is_dir():
            shutil.copytree(source, to / extra, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, to / extra)
    tree = Tree(to)
    before = tree.files()
    patch = ROOT / "docs" / "how-to" / "patches" / name
    _git_apply(patch, at=to)
    after = tree.files()
    yield tree, {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    _git_apply(patch, at=to, reverse=True)
    assert tree.files() == before


def _git_apply(patch: Path, *, at: Path, reverse: bool = False) -> None:
    options = ["--reverse"] if reverse else []
    done = subprocess.run(
        ["git", "apply", *options, str(patch)],
        cwd=at,
        env={**os.environ, "GIT_CEILING_DIRECTORIES": str(at.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{patch.name} does not apply any more; make it again: {done.stderr}"
