"""The contract of a toolchain (`compilers/toolchain.py`), for every backend of the table."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from compilers.backend import backend_names, find_backend, find_toolchain
from compilers.proof.prove import prove
from compilers.toolchain import Supported, Unsupported
from registry.errors import BuildError
from registry.recipe import KNOWN, parse_recipe
from registry.target import targets
from tests.contracts.conftest import LoweredBundle
from tests.contracts.facts import FACTS

HEAVY = ("torch", "transformers", "onnx", "onnxruntime", "onnxruntime_qnn", "tvm", "tvm_ffi", "iree", "numba")
"""Libraries that take long to import, or may crash on it."""
NO_HEAVY = f"assert not {{m.partition('.')[0] for m in __import__('sys').modules}} & set({HEAVY})"

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.parametrize("name", backend_names())


def python(code: str) -> None:
    """Run code in another process, in which nothing is imported yet."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_name_and_format_are_those_of_the_backend(name: str) -> None:
    backend, toolchain = find_backend(name), find_toolchain(name)
    assert (backend.name, toolchain.name) == (name, name)
    assert toolchain.produces == backend.format.name


def test_the_extra_that_installs_it_and_its_page_exist(name: str) -> None:
    backend = find_backend(name)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert backend.extra in project["optional-dependencies"]
    assert (ROOT / backend.page).is_file()


def test_version_and_support_are_answered_without_the_library(name: str) -> None:
    python(
        "from compilers.backend import find_toolchain\n"
        "from registry.errors import ToolchainMissingError\n"
        "from registry.recipe import KNOWN, parse_recipe\n"
        "from registry.target import targets\n"
        "from tests.contracts.facts import FACTS\n"
        f"toolchain = find_toolchain({name!r})\n"
        "try:\n    assert toolchain.version()\n"
        "except ToolchainMissingError as missing:\n    assert missing.hint\n"
        "for recipe in map(parse_recipe, KNOWN):\n"
        "    for target in targets().values():\n        toolchain.supports(recipe, target, FACTS)\n"
        f"{NO_HEAVY}\n"
    )


def test_every_recipe_on_every_target_is_supported_or_refused_with_a_reason(name: str) -> None:
    toolchain = find_toolchain(name)
    answers = [
        toolchain.supports(parse_recipe(recipe), target, FACTS)
        for recipe in KNOWN
        for target in targets().values()
    ]
    for answer in answers:
        if isinstance(answer, Unsupported):
            assert answer.kind in ("not_implemented", "not_upstream", "never")
            assert answer.reason.strip()
            assert not answer.reason.endswith(".")
    assert any(isinstance(answer, Supported) for answer in answers)


def test_what_is_supported_has_claims_that_a_proof_can_hold_it_to(name: str) -> None:
    toolchain, claims = find_toolchain(name), find_backend(name).format.claims
    kinds = {
        target.kind
        for recipe in KNOWN
        for target in targets().values()
        if isinstance(toolchain.supports(parse_recipe(recipe), target, FACTS), Supported)
    }
    assert kinds == set(claims)


def test_lowering_makes_the_files_that_it_declares_and_no_others(name: str, lowered: LoweredBundle) -> None:
    found = {str(path.relative_to(lowered.made)) for path in lowered.made.rglob("*") if path.is_file()}
    assert found == set(lowered.lowered.files)
    assert lowered.lowered.entry in found


def test_what_was_lowered_is_proven(name: str, lowered: LoweredBundle) -> None:
    proof = prove(
        lowered.made,
        files=lowered.lowered.files,
        entry=lowered.lowered.entry,
        format=lowered.backend.format.name,
        toolchain=name,
        target=lowered.target,
        options=lowered.lowered.options,
    )
    assert proof.problems == ()
    assert lowered.target.name in proof.summary


def test_an_unsupported_target_is_refused_before_anything_is_written(
    name: str, lowered: LoweredBundle, tmp_path: Path
) -> None:
    toolchain, source = find_toolchain(name), lowered.source
    refused = next(
        (
            target
            for target in targets().values()
            if isinstance(toolchain.supports(source.recipe, target, source.facts), Unsupported)
        ),
        None,
    )
    if refused is None:
        pytest.skip(f"{name} lowers this to every target")
    with pytest.raises(BuildError) as raised:
        toolchain.lower(source, refused, out=tmp_path)
    assert raised.value.hint
    assert list(tmp_path.iterdir()) == []
