"""Versions of packages, read without importing them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from compilers.installed import required_version
from registry.errors import ToolchainMissingError

ROOT = Path(__file__).parents[2]


def test_the_first_distribution_that_is_there_answers_without_being_imported() -> None:
    code = (
        "import sys; from compilers.installed import required_version\n"
        "print(required_version('no-such-distribution', 'pydantic', extra='build'))\n"
        "print('pydantic' in sys.modules)"
    )
    said = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    assert said.split() == [version("pydantic"), "False"]


def test_a_package_that_is_absent_is_named_with_the_part_that_installs_it() -> None:
    with pytest.raises(ToolchainMissingError, match="`no-such-distribution` is not installed") as caught:
        required_version("no-such-distribution", extra="tvm")
    assert "rung[tvm]" in caught.value.hint


def test_a_version_that_does_not_work_is_refused_with_what_works() -> None:
    with pytest.raises(ToolchainMissingError, match=r"is installed, what works is <0\.1"):
        required_version("pydantic", versions="<0.1", extra="build")
