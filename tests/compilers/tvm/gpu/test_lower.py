"""Machine code for GPUs, made without one: what is in it, what is not, and what is missing to make it."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from compilers.model.weights import weights_layout
from compilers.proof.cuda import find_cuobjdump
from compilers.proof.proof import Proof
from compilers.proof.prove import prove
from compilers.toolchain import Lowered, Supported, Unsupported
from compilers.tvm.gpu.open import read_plan
from compilers.tvm.gpu.tools import find_lld, find_nvcc
from compilers.tvm.lower import TvmToolchain
from registry.errors import BuildError, ToolchainMissingError
from registry.recipe import KNOWN, parse_recipe
from registry.target import find_target, targets
from tests.compilers.conftest import Built
from tests.compilers.tvm.gpu.building import lower, require, source_of

Builder = Callable[..., Built]
GPUS = sorted(name for name, target in targets().items() if target.kind in ("cuda", "rocm"))


@pytest.fixture(scope="module")
def built(checkpoint_of: Callable[..., Path], build: Builder) -> Built:
    return build(checkpoint_of(architecture="Qwen2ForCausalLM", tie_word_embeddings=True), recipe="w4g32-rtn")


def proof_of(lowered: Lowered, target: str, folder: Path) -> Proof:
    return prove(
        folder, files=lowered.files, entry=lowered.entry, format="tvm", toolchain="tvm",
        target=find_target(target),
    )  # fmt: skip


@pytest.mark.parametrize("target", GPUS)
def test_weight_only_recipes_are_supported_and_others_say_why_not(target: str, built: Built) -> None:
    for recipe in KNOWN:
        support = TvmToolchain().supports(parse_recipe(recipe), find_target(target), built.facts)
        if parse_recipe(recipe).activations == "float":
            assert isinstance(support, Supported)
        else:
            assert isinstance(support, Unsupported)
            assert len(support.reason) > 20


def test_a_fatbin_holds_cubins_of_every_architecture_and_no_source(built: Built, tmp_path: Path) -> None:
    tool = find_cuobjdump()
    if tool is None:
        pytest.skip("`cuobjdump` is not installed")
    lowered = lower(built, "cuda-sm80-sm89-sm90-sm100", tmp_path)
    assert re.fullmatch(r"nvcc \d+\.\d+.*", str(lowered.options["compiler"]))
    code = tmp_path / lowered.entry
    listing = tool.run(["-lelf", "-lptx", code.name], folder=tmp_path)
    found = {name for name in ("sm_80", "sm_89", "sm_90", "sm_100") if f".{name}.cubin" in listing}
    assert found == {"sm_80", "sm_89", "sm_90", "sm_100"}
    assert "ptx" not in listing.lower().replace("no ptx", "")
    data = code.read_bytes()
    assert b"__global__" not in data
    assert str(tmp_path).encode() not in data
    assert b"/rung-cuda-" not in data
    assert proof_of(lowered, "cuda-sm80-sm89-sm90-sm100", tmp_path).problems == ()
    kernels = read_plan(tmp_path).kernels
    assert 10 <= len(kernels) <= 20
    assert all(f"{name}_kernel".encode() in data for name in kernels)


@pytest.mark.parametrize("target", ["rocm-gfx90a", "rocm-gfx942", "rocm-gfx1100"])
def test_a_code_object_is_for_its_gpu_and_exports_each_kernel(
    target: str, built: Built, tmp_path: Path
) -> None:
    from elftools.elf.elffile import ELFFile

    lowered = lower(built, target, tmp_path)
    data = (tmp_path / lowered.entry).read_bytes()
    image = ELFFile(io.BytesIO(data))
    assert image["e_machine"] == "EM_AMDGPU"
    assert find_target(target).architecture.encode() in data
    assert re.fullmatch(r"ld\.lld \d+\.\d+.*", str(lowered.options["compiler"]))
    assert proof_of(lowered, target, tmp_path).problems == ()
    names = {symbol.name for symbol in image.get_section_by_name(".dynsym").iter_symbols()}
    kernels = read_plan(tmp_path).kernels
    assert {f"{name}_kernel.kd" for name in kernels} <= names


def test_equal_layouts_give_equal_bytes_whatever_the_weights(
    checkpoint_of: Callable[..., Path], build: Builder, tmp_path: Path
) -> None:
    made = []
    for seed in (0, 1):
        one = build(checkpoint_of(architecture="LlamaForCausalLM", seed=seed), recipe="fp16")
        lowered = lower(one, "rocm-gfx942", tmp_path / str(seed))
        made.append([(tmp_path / str(seed) / name).read_bytes() for name in lowered.files])
    assert made[0] == made[1]


@pytest.mark.slow
def test_cuda_code_is_the_same_bytes_again(built: Built, tmp_path: Path) -> None:
    first, second = (
        (tmp_path / name / lower(built, "cuda-sm90", tmp_path / name).entry).read_bytes() for name in "ab"
    )
    assert first == second


def test_missing_compilers_are_named_with_their_remedy(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("compilers.tvm.gpu.tools.importlib.util.find_spec", lambda name: None)
    source = source_of(built, tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    for target, message in (("cuda-sm90", "nvcc"), ("rocm-gfx942", r"ld\.lld")):
        with pytest.raises(ToolchainMissingError, match=message) as caught:
            TvmToolchain().lower(source, find_target(target), out=out)
        assert "rung[" in caught.value.hint
    assert list(out.iterdir()) == []


def test_a_compiler_that_fails_is_told_with_its_log(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(find_lld)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("ld.lld", "exec false"), ("nvcc", "echo broken >&2; exit 3")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    source = source_of(built, tmp_path)
    with pytest.raises(BuildError, match=r"ld\.lld"):
        TvmToolchain().lower(source, find_target("rocm-gfx942"), out=tmp_path)
    with pytest.raises(BuildError, match="broken"):
        TvmToolchain().lower(source, find_target("cuda-sm90"), out=tmp_path)


def test_source_in_the_place_of_machine_code_is_refused(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "nvcc").write_text("#!/bin/sh\ncp kernels.cu kernels.fatbin\n")
    (tools / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    with pytest.raises(BuildError, match="no machine code"):
        TvmToolchain().lower(source_of(built, tmp_path), find_target("cuda-sm90"), out=tmp_path)


def test_weights_in_no_known_form_are_refused(built: Built, tmp_path: Path) -> None:
    require(find_lld)
    layout = weights_layout(built.architecture, parse_recipe("w8a8-dynamic"))
    other = tmp_path / "weights.safetensors"
    with other.open("wb") as stream:
        stream.write(layout.header)
        stream.truncate(layout.size_bytes)
    source = source_of(built, tmp_path)
    source = type(source)(recipe=source.recipe, facts=source.facts, graph=source.graph, weights=other)
    with pytest.raises(BuildError, match="no GPU kernels"):
        TvmToolchain().lower(source, find_target("rocm-gfx942"), out=tmp_path)


def test_the_wheels_alone_have_an_nvcc_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("`g++` is not installed")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("g++", "gcc", "cc1plus", "as", "ld", "sh", "cat", "rm", "uname", "grep", "sed"):
        if found := shutil.which(name):
            (tools / name).symlink_to(found)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tools))
    try:
        nvcc = find_nvcc()
    except ToolchainMissingError:
        pytest.skip("the wheels of `rung[cuda]` are not installed")
    (tmp_path / "a.cu").write_text("#include <cuda.h>\n__global__ void a(float* x) { x[0] = 1; }\n")
    command = [*nvcc.command, "--fatbin", "-arch=sm_90", "a.cu", "-o", "a.fatbin"]
    done = subprocess.run(command, cwd=tmp_path, env=dict(nvcc.environment), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a.fatbin").read_bytes().startswith(b"\x50\xed\x55\xba")
