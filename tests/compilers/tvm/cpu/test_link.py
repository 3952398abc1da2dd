"""Linking for another machine: equal bytes, the right machine by an independent tool, and what is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compilers.toolchain import LoweringInput
from compilers.tvm.cpu.link import OPTIONS, Linker, find_linker
from compilers.tvm.lower import TvmToolchain
from registry.errors import BuildError, ToolchainMissingError
from registry.target import find_target
from tests.compilers.conftest import Built

OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}[os.uname().machine]


def test_this_machines_own_libraries_are_linked_by_tvm_itself() -> None:
    assert find_linker(os.uname().machine) is None


def test_without_a_cross_linker_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainMissingError, match=OTHER) as caught:
        find_linker(OTHER)
    assert "rung[aarch64]" in caught.value.hint


def test_a_linker_that_fails_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    (tmp_path / "garbage.o").write_bytes(b"garbage")
    with pytest.raises(BuildError, match="could not link"):
        Linker(("cc",)).link(str(tmp_path / "a.so"), [str(tmp_path / "garbage.o")], OPTIONS)
    with pytest.raises(BuildError, match="`no-such-linker`"):
        Linker(("no-such-linker",)).link(str(tmp_path / "a.so"), [])


@pytest.mark.slow
def test_an_arm_library_has_equal_bytes_wherever_it_is_built(
    checkpoint_of: Callable[..., Path], build: Callable[..., Built], tmp_path: Path
) -> None:
    try:
        find_linker("aarch64")
    except ToolchainMissingError as error:
        pytest.skip(error.message)
    built = build(checkpoint_of(architecture="LlamaForCausalLM"), recipe="w4g32-rtn", toolchain="tvm")
    source = LoweringInput(built.recipe, built.facts, built.out / "graph" / "model.onnx", built.weights)
    places = [tmp_path / "one", tmp_path / "another" / "place"]
    for place in places:
        place.mkdir(parents=True)
        TvmToolchain().lower(source, find_target("cpu-aarch64-neoverse-n1"), out=place)
    first, second = ((place / "model.so").read_bytes() for place in places)
    assert first == second
    assert str(tmp_path).encode() not in first
    if shutil.which("readelf"):
        head = subprocess.run(
            ["readelf", "-h", str(places[0] / "model.so")], capture_output=True, text=True, check=True
        )
        assert "AArch64" in head.stdout
