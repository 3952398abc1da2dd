"""The contract of a runtime (`compilers/runtime.py`), for every format of the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from compilers.backend import backend_names, find_backend, find_runtime, formats
from compilers.runtime import Bundle, Segment
from compilers.toolchain import Unsupported
from registry.artifact import Manifest
from registry.errors import LoadError, ToolchainMissingError
from registry.target import targets
from serving.node.host import this_host
from tests.contracts.conftest import LoweredBundle
from tests.contracts.test_toolchain import NO_HEAVY, python

HOST = this_host()


@pytest.mark.parametrize("form", formats())
def test_a_runtime_accepts_the_format_under_which_it_is_found(form: str) -> None:
    assert find_runtime(form).accepts == form


@pytest.mark.parametrize("form", formats())
def test_version_is_answered_without_the_library(form: str) -> None:
    python(
        "from compilers.backend import find_runtime\n"
        "from registry.errors import ToolchainMissingError\n"
        f"try:\n    assert find_runtime({form!r}).version()\n"
        "except ToolchainMissingError as missing:\n    assert missing.hint\n"
        f"{NO_HEAVY}\n"
    )


@pytest.mark.parametrize("form", formats())
def test_a_manifest_of_another_format_is_never_supported(form: str, manifest: Manifest) -> None:
    said = find_runtime(form).supports(manifest, HOST)
    assert isinstance(said, Unsupported)
    assert said.kind == "never"
    assert manifest.format in said.reason


@pytest.mark.parametrize("form", formats())
@pytest.mark.parametrize("target", targets())
def test_every_target_is_answered_and_a_refusal_has_a_reason(
    form: str, target: str, manifest: Manifest
) -> None:
    said = find_runtime(form).supports(manifest.model_copy(update={"format": form, "target": target}), HOST)
    if isinstance(said, Unsupported):
        assert said.reason.strip()


@pytest.mark.parametrize("form", formats())
def test_what_cannot_run_here_is_not_loaded(form: str, manifest: Manifest, tmp_path: Path) -> None:
    with pytest.raises(LoadError) as raised:
        find_runtime(form).load(Bundle(manifest, tmp_path), HOST)
    assert raised.value.hint


def loadable(lowered: LoweredBundle) -> None:
    """Skip where this machine cannot load the artifact."""
    runtime = find_runtime(lowered.backend.format.name)
    if isinstance(said := runtime.supports(lowered.manifest, HOST), Unsupported):
        pytest.skip(f"cannot run here: {said.reason}")
    try:
        runtime.version()
    except ToolchainMissingError as missing:
        pytest.skip(missing.message)


@pytest.mark.parametrize("name", backend_names())
def test_an_artifact_runs_and_names_its_vocabulary(name: str, lowered: LoweredBundle) -> None:
    loadable(lowered)
    session = find_runtime(lowered.backend.format.name).load(Bundle(lowered.manifest, lowered.bundle), HOST)
    logits = session.forward(session.new_cache(rows=1, capacity=16), [Segment(0, [5, 6, 7], "all")])
    assert session.vocab_size == lowered.manifest.facts.vocab_size
    assert logits[0].shape == (3, session.vocab_size)


@pytest.mark.parametrize("name", backend_names())
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_damaged_files_are_load_errors(
    name: str, damage: str, lowered: LoweredBundle, tmp_path: Path
) -> None:
    loadable(lowered)
    for file in lowered.lowered.files:
        broken = tmp_path / file
        shutil.copytree(lowered.bundle, broken)
        path, content = broken / file, (lowered.bundle / file).read_bytes()
        path.unlink()
        if damage != "missing":
            path.write_bytes(b"" if damage == "empty" else content[: len(content) // 2])
        with pytest.raises(LoadError):
            find_runtime(lowered.backend.format.name).load(Bundle(lowered.manifest, broken), HOST)


@pytest.mark.parametrize("form", formats())
def test_a_runtime_of_the_compilers_version_runs_what_was_compiled(form: str, manifest: Manifest) -> None:
    backend = next(one for one in map(find_backend, backend_names()) if one.format.name == form)
    bound = manifest.model_copy(update={"format": form, "toolchain_version": "1.2.3"})
    assert backend.format.runs("1.2.3", bound)
