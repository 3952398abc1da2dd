"""Versions of packages, read without importing them."""

from __future__ import annotations

import sys

import pytest

from compilers.installed import required_version
from registry.errors import ToolchainMissingError


def test_the_first_distribution_that_is_there_answers_without_being_imported() -> None:
    before = set(sys.modules)
    assert required_version("no-such-distribution", "pydantic", extra="build")
    assert not {name for name in set(sys.modules) - before if name.startswith("pydantic")}


def test_a_package_that_is_absent_is_named_with_the_part_that_installs_it() -> None:
    with pytest.raises(ToolchainMissingError, match="`no-such-distribution` is not installed") as caught:
        required_version("no-such-distribution", extra="tvm")
    assert "rung[tvm]" in caught.value.hint


def test_a_version_that_does_not_work_is_refused_with_what_works() -> None:
    with pytest.raises(ToolchainMissingError, match=r"is installed, what works is <0\.1"):
        required_version("pydantic", versions="<0.1", extra="build")
