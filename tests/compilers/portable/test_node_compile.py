"""The commands of a manifest are run as they stand, and nothing else is."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from compilers.portable.node_compile import node_compile, read_commands
from compilers.runtime import Bundle
from registry.artifact import Manifest, ModelFacts
from registry.digest import digest_file
from registry.errors import BuildError, LoadError, RefusedError, ToolchainMissingError

NO_DIGEST = "sha256:" + "0" * 64
FACTS = ModelFacts(
    architecture="LlamaForCausalLM", vocab_size=300, hidden_size=64, layers=2, heads=4, kv_heads=2,
    head_size=16, max_context=128, add_bos=False,
)  # fmt: skip
ATC = "atc --model={bundle}/decode.onnx --framework=5 --output={out}/decode --input_shape='tokens:1,1;x:2'"
COPY = """#!/bin/sh
# A stand-in with atc's arguments: it says what it got and copies the model.
for argument in "$@"; do case "$argument" in
  --model=*) model="${argument#--model=}" ;;
  --output=*) output="${argument#--output=}" ;;
esac; done
printf '%s\\n' "$@"; pwd; touch left-behind
cp "$model" "$output.om"
"""


def bundle_of(path: Path, **options: str) -> Bundle:
    path.mkdir(exist_ok=True)
    (path / "decode.onnx").write_bytes(b"a graph")
    manifest = Manifest(
        build_key=NO_DIGEST, format="portable", toolchain="cann", toolchain_version="1",
        target="npu-ascend910b", checkpoint="tiny/1", checkpoint_digest=NO_DIGEST, family="tiny",
        licence="unknown", recipe="fp16", facts=FACTS, files=(), entry="decode.onnx", options=dict(options),
        memory_bytes=0, kv_bytes_per_token=0,
    )  # fmt: skip
    return Bundle(manifest, path)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on PATH for programs of the test."""
    folder = tmp_path / "toolkit" / "x86_64-linux" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def write_tool(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_a_compiler_is_run_without_a_shell_and_its_outputs_have_digests(tools: Path, tmp_path: Path) -> None:
    write_tool(tools, "atc", COPY)
    info = tools.parent / "ascend_toolkit_install.info"
    info.write_text("package_name=Ascend-cann-toolkit\nversion=8.5.0\n", encoding="utf-8")
    bundle = bundle_of(tmp_path / "bundle with a space; true", node_compile=f"{ATC} && {ATC}2")
    out = tmp_path / "out"
    made = node_compile(bundle, out=out)
    assert made.ok
    assert (made.tool, made.tool_version) == ("atc", "8.5.0")
    assert made.artifact == bundle.manifest.digest
    assert [(file.path, file.digest) for file in made.outputs] == [
        ("decode.om", digest_file(bundle.path / "decode.onnx"))
    ]
    assert "--input_shape=tokens:1,1;x:2" in made.log_tail
    assert f"--model={bundle.path}/decode.onnx" in made.log_tail
    assert len(made.commands) == 2


def test_a_tool_that_states_no_version_is_named_by_its_digest(tools: Path, tmp_path: Path) -> None:
    write_tool(tools, "atc", COPY)
    made = node_compile(bundle_of(tmp_path / "bundle", node_compile=ATC), out=tmp_path / "out")
    assert made.tool_version == digest_file(tools / "atc")


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo out of memory; exit 3", "`atc` ended with 3"),
        ("true", "none left a file"),
        ("sleep 60", "stopped after"),
    ],
)
def test_a_compiler_that_fails_or_hangs_is_a_result_with_its_log(
    script: str, says: str, tools: Path, tmp_path: Path
) -> None:
    write_tool(tools, "atc", f"#!/bin/sh\n{script}\n")
    bundle = bundle_of(tmp_path / "bundle", node_compile=ATC)
    made = node_compile(bundle, out=tmp_path / "out", timeout_s=1.0)
    assert not made.ok
    assert says in made.log_tail


def test_a_missing_compiler_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    bundle = bundle_of(tmp_path / "bundle", node_compile=ATC)
    with pytest.raises(ToolchainMissingError, match="`atc` is not on this machine") as raised:
        node_compile(bundle, out=tmp_path / "out")
    assert raised.value.exit_code == 5
    assert "CANN" in raised.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "command",
    [
        "sh -c 'touch {out}/x'",
        "python {bundle}/x.py",
        "/usr/bin/atc --model={bundle}/decode.onnx",
        "./atc --model={bundle}/decode.onnx",
        "atc --model={bundle}/decode.onnx --output=/etc/decode",
        "atc --model={bundle}/../../secret --output={out}/decode",
        "atc --model={home}decode.onnx --output={out}/decode",
        f"{ATC} && rm -r {{out}}",
        f"{ATC} &&",
    ],
)
def test_anything_but_a_known_compiler_on_the_bundles_files_is_refused(command: str) -> None:
    with pytest.raises(RefusedError):
        read_commands(command, artifact=NO_DIGEST)


def test_an_artifact_without_a_command_cannot_be_compiled(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="names no command"):
        node_compile(bundle_of(tmp_path / "bundle"), out=tmp_path / "out")


def test_an_output_directory_with_something_in_it_is_left_alone(tools: Path, tmp_path: Path) -> None:
    write_tool(tools, "atc", COPY)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept", encoding="utf-8")
    with pytest.raises(BuildError, match="not empty"):
        node_compile(bundle_of(tmp_path / "bundle", node_compile=ATC), out=tmp_path / "out")
