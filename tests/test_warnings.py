"""Which warnings fail a test: our own deprecations and every leak, but no other package's deprecation."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("registry", "compilers", "evals", "matrices", "serving", "pipeline")

FOREIGN = """
import warnings
import registry.digest as ours

def test_it():
    # As a library does with `stacklevel=2` when a module of ours calls it.
    warnings.warn_explicit(
        "`past_key_values` is deprecated", {category}, filename=ours.__file__, lineno=1, module=ours.__name__
    )
"""
OURS = """
import warnings
from registry.deprecation import RungDeprecationWarning

def test_it():
    warnings.warn("`place` is deprecated; use `workspace`", RungDeprecationWarning, stacklevel=1)
"""
LEAK = """
import gc
import registry.digest as ours

def test_it():
    scope = {"path": ours.__file__, "__name__": ours.__name__}
    exec(compile("def leak():\\n    open(path)\\n", ours.__file__, "exec"), scope)
    scope["leak"]()
    gc.collect()
"""


def _pytest(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "--rootdir", folder]
    return subprocess.run(
        [*command, "-p", "no:cacheprovider", folder / "test_it.py"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.parametrize("category", ["DeprecationWarning", "PendingDeprecationWarning", "FutureWarning"])
def test_another_packages_deprecation_is_reported_and_fails_nothing(tmp_path: Path, category: str) -> None:
    done = _pytest(FOREIGN.format(category=category), tmp_path)
    assert done.returncode == 0, done.stdout
    assert "`past_key_values` is deprecated" in done.stdout


def test_another_packages_other_warning_fails(tmp_path: Path) -> None:
    assert _pytest(FOREIGN.format(category="RuntimeWarning"), tmp_path).returncode == 1


def test_our_own_deprecation_fails(tmp_path: Path) -> None:
    done = _pytest(OURS, tmp_path)
    assert done.returncode == 1
    assert "RungDeprecationWarning: `place` is deprecated" in done.stdout


def test_a_file_that_our_code_leaves_open_fails(tmp_path: Path) -> None:
    done = _pytest(LEAK, tmp_path)
    assert done.returncode == 1
    assert "ResourceWarning: unclosed file" in done.stdout


def test_every_deprecation_that_our_code_announces_is_of_our_category() -> None:
    other = [
        f"{path.relative_to(ROOT)}:{call.lineno}"
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func) in ("warn", "warnings.warn")
        and "RungDeprecationWarning" not in ast.unparse(call)
    ]
    assert other == []
