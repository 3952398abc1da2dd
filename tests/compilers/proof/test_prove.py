"""What a proof finds in real binaries, and which wrong ones it catches."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from compilers.backend import find_toolchain
from compilers.proof import prove as module
from compilers.proof.cuda import find_cuobjdump
from compilers.proof.proof import Binary, Proof, proof_lines
from compilers.proof.prove import prove
from compilers.toolchain import LoweringInput
from registry.artifact import ArtifactFormat
from registry.errors import ToolchainMissingError
from registry.target import find_target
from tests.compilers.conftest import Built
from tests.compilers.proof.conftest import CUDA_SOURCE, c_library, fatbin, iree_module

Builder = Callable[..., Built]
IREE_TARGETS = {
    "rocm-gfx942": ("--iree-hal-target-device=hip", "--iree-rocm-target=gfx942"),
    "rocm-gfx90a": ("--iree-hal-target-device=hip", "--iree-rocm-target=gfx90a"),
    "rocm-gfx1100": ("--iree-hal-target-device=hip", "--iree-rocm-target=gfx1100"),
    "cuda-sm80": ("--iree-hal-target-device=cuda", "--iree-cuda-target=sm_80"),
    "vulkan-spirv": ("--iree-hal-target-device=vulkan",),
    "cpu-aarch64-neoverse-n1": (
        "--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu",
        "--iree-llvmcpu-target-triple=aarch64-linux-gnu", "--iree-llvmcpu-target-cpu=neoverse-n1",
    ),
}  # fmt: skip


def proof_of(
    folder: Path,
    *,
    target: str,
    form: ArtifactFormat = "tvm",
    entry: str | None = None,
    toolchain: str | None = None,
) -> Proof:
    files = sorted(path.name for path in folder.iterdir())
    return prove(
        folder,
        files=files,
        entry=entry or files[0],
        format=form,
        toolchain=toolchain or form,
        target=find_target(target),
    )


def only(proof: Proof, kind: str) -> Binary:
    (found,) = [binary for binary in proof.binaries if binary.kind == kind]
    return found


@pytest.fixture(scope="module")
def tvm_artifact(checkpoint_of: Callable[..., Path], build: Builder) -> Built:
    return build(checkpoint_of(architecture="LlamaForCausalLM"), recipe="w4g32-rtn", toolchain="tvm")


@pytest.fixture
def tvm_folder(tvm_artifact: Built, tmp_path: Path) -> Path:
    for name in ("model.so", "plan.json", "weights.safetensors"):
        shutil.copy(tvm_artifact.out / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module", params=list(IREE_TARGETS))
def iree_artifact(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("iree")
    iree_module(folder / "model.vmfb", *IREE_TARGETS[request.param])
    return request.param, folder


def test_a_tvm_library_is_what_its_manifest_says(tvm_folder: Path) -> None:
    proof = proof_of(tvm_folder, target="cpu-x86-64-v3")
    assert proof.sound, proof.problems
    binary = only(proof, "elf")
    assert (binary.file, binary.offset, binary.machine) == ("model.so", 0, "EM_X86_64")
    assert binary.size_bytes == (tvm_folder / "model.so").stat().st_size
    assert "__tvm_ffi_pack_w4" in binary.exports
    assert "pyelftools" in binary.tool
    assert any("instructions" in note for note in proof.notes)
    assert Proof.model_validate_json(proof.model_dump_json()) == proof


def test_proof_lines_name_each_binary_and_each_problem(tvm_folder: Path) -> None:
    lines = proof_lines(proof_of(tvm_folder, target="cpu-aarch64-neoverse-n1"))
    assert "is EM_X86_64" in lines[0]
    assert any(line.startswith("  model.so: elf, EM_X86_64") for line in lines)
    assert any(line.startswith("  problem: ") for line in lines)


@pytest.mark.parametrize(
    ("made_for", "declared"),
    [("x86_64", "cpu-aarch64-neoverse-n1"), ("aarch64", "cpu-x86-64-v3")],
)
def test_a_library_of_another_machine_is_caught(made_for: str, declared: str, tmp_path: Path) -> None:
    c_library(made_for, tmp_path / "model.so")
    proof = proof_of(tmp_path, target=declared)
    assert not proof.sound
    assert only(proof, "elf").machine == {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}[made_for]
    assert any(
        "the manifest says" in problem and "`model.so` is EM_" in problem for problem in proof.problems
    )


@pytest.mark.parametrize(
    ("architecture", "options", "declared", "feature"),
    [
        ("x86_64", ("-ffast-math", "-mavx512f", "-mprefer-vector-width=512"), "cpu-x86-64-v3", "avx512f"),
        ("aarch64", ("-ffast-math", "-march=armv8.2-a+sve"), "cpu-aarch64-neoverse-n1", "sve"),
    ],
)
def test_instructions_beyond_the_target_are_caught(
    architecture: str, options: tuple[str, ...], declared: str, feature: str, tmp_path: Path
) -> None:
    from compilers.proof.instructions import find_disassembler

    if find_disassembler(architecture) is None:
        pytest.skip(f"no disassembler for {architecture}")
    c_library(architecture, tmp_path / "model.so", *options)
    assert any(f"has no {feature}" in problem for problem in proof_of(tmp_path, target=declared).problems)
    c_library(architecture, tmp_path / "model.so", "-ffast-math")
    assert proof_of(tmp_path, target=declared).problems == ()


@pytest.mark.parametrize("keep", [4, 60, 5_000, 0.5, 0.99])
def test_a_library_that_is_cut_short_is_caught(keep: float, tvm_folder: Path) -> None:
    data = (tvm_folder / "model.so").read_bytes()
    (tvm_folder / "model.so").write_bytes(data[: int(keep * len(data)) if keep < 1 else int(keep)])
    assert not proof_of(tvm_folder, target="cpu-x86-64-v3").sound


def test_missing_empty_and_outside_files_are_caught(tvm_folder: Path) -> None:
    (tvm_folder / "empty.so").write_bytes(b"")
    (tvm_folder / "linked.so").symlink_to("/usr/bin/env")
    proof = prove(
        tvm_folder,
        files=["model.so", "plan.json", "empty.so", "linked.so", "gone.so", "../x", "/etc/hostname"],
        entry="main.so",
        format="tvm",
        toolchain="tvm",
        target=find_target("cpu-x86-64-v3"),
    )
    said = "\n".join(proof.problems)
    for name in ("`empty.so` is empty", "`linked.so`", "`gone.so`", "`../x`", "`/etc/hostname`", "`main.so`"):
        assert name in said


def test_a_plan_that_calls_what_the_library_lacks_is_caught(tvm_folder: Path) -> None:
    plan = tvm_folder / "plan.json"
    plan.write_text(plan.read_text().replace("pack_w4", "pack_w5"))
    assert any("calls `pack_w5`" in p for p in proof_of(tvm_folder, target="cpu-x86-64-v3").problems)
    plan.write_text("[")
    assert any("`plan.json`" in p for p in proof_of(tvm_folder, target="cpu-x86-64-v3").problems)


def test_weights_inside_a_library_are_caught(tmp_path: Path) -> None:
    c_library("x86_64", tmp_path / "model.so")
    assert proof_of(tmp_path, target="cpu-x86-64-v3").sound
    (tmp_path / "w.s").write_text(
        '.section .rodata\n.globl w\nw: .zero 3000000\n.section .note.GNU-stack,"",%progbits\n'
    )
    c_library("x86_64", tmp_path / "model.so", str(tmp_path / "w.s"))
    (tmp_path / "w.s").unlink()
    assert any("bytes of data" in p for p in proof_of(tmp_path, target="cpu-x86-64-v3").problems)


def test_a_library_that_needs_what_nodes_lack_is_caught(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = c_library("x86_64", tmp_path / "other" / "libbench.so", "-Wl,-soname,libbench.so")
    c_library("x86_64", tmp_path / "model.so", "-Wl,--no-as-needed", str(other))
    shutil.rmtree(tmp_path / "other")
    assert any("`libbench.so`" in p for p in proof_of(tmp_path, target="cpu-x86-64-v3").problems)


@pytest.mark.parametrize("name", ["kernels.cu", "weights.safetensors", "tokenizer.json", "model.bin"])
def test_executables_under_another_name_are_caught(name: str, tvm_folder: Path) -> None:
    shutil.copy(tvm_folder / "model.so", tvm_folder / name)
    proof = proof_of(tvm_folder, target="cpu-aarch64-neoverse-n1", entry="model.so")
    assert any(f"`{name}`" in problem for problem in proof.problems)


# CUDA


def cuda_library(folder: Path, payload: Path | bytes) -> None:
    """A host library that embeds something, as TVM's do."""
    raw = payload if isinstance(payload, bytes) else payload.read_bytes()
    (folder / "blob").write_bytes(raw)
    (folder / "blob.s").write_text(
        f'.section .rodata\n.balign 16\n.globl blob\nblob: .incbin "{folder}/blob"\n'
        '.section .note.GNU-stack,"",%progbits\n'
    )
    c_library("x86_64", folder / "model.so", str(folder / "blob.s"))
    for path in folder.iterdir():
        if path.name != "model.so":
            path.unlink()


def test_a_fat_binary_inside_a_library_is_found_with_its_architectures(tmp_path: Path) -> None:
    cuda_library(tmp_path, fatbin(tmp_path / "k.fatbin", "sm_80", "sm_90", "compute_90"))
    proof = proof_of(tmp_path, target="cuda-sm80")
    binary = only(proof, "fatbin")
    assert binary.architectures == ("sm_80", "sm_90")
    assert binary.exports == ("add",)
    assert binary.offset > 0
    if find_cuobjdump() is not None:
        assert binary.flags == "ptx:sm_90"
        assert "cuobjdump" in binary.tool
    assert proof.problems == ("the manifest says sm_80, `model.so` holds fatbin code for sm_90",)
    wide = proof_of(tmp_path, target="cuda-sm80-sm89-sm90-sm100")
    assert any("no code for sm_100, sm_89" in problem for problem in wide.problems)


def test_a_fat_binary_for_exactly_its_target_is_sound_without_cuobjdump_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda_library(tmp_path, fatbin(tmp_path / "k.fatbin", "sm_90"))
    proof = proof_of(tmp_path, target="cuda-sm90")
    assert proof.sound, proof.problems
    assert "machine code for sm_90" in proof.summary
    monkeypatch.setattr(module, "find_cuobjdump", lambda: None)
    alone = proof_of(tmp_path, target="cuda-sm90")
    assert alone.sound, alone.problems
    assert only(alone, "fatbin").tool.endswith("(no cuobjdump)")


def test_a_source_only_cuda_library_is_caught(tmp_path: Path) -> None:
    cuda_library(tmp_path, CUDA_SOURCE.encode() + b"\0")
    proof = proof_of(tmp_path, target="cuda-sm90")
    assert only(proof, "source").file == "model.so"
    said = "\n".join(proof.problems)
    assert "holds GPU source text" in said
    assert "alone, which a node would have to compile" in said


def test_what_tvm_exports_for_cuda_without_nvcc_is_caught_as_source_only(tmp_path: Path) -> None:
    pytest.importorskip("tvm")
    import tvm
    from tvm.script import tirx as T  # noqa: N812  # the name that TVM's parser knows

    @T.prim_func(s_tir=True)
    def add(a: T.Buffer((64,), "float32"), b: T.Buffer((64,), "float32")) -> None:
        for i in T.thread_binding(64, thread="threadIdx.x"):
            with T.sblock("add"):
                v = T.axis.spatial(64, i)
                b[v] = a[v] + T.float32(1)

    target = tvm.target.Target({"kind": "cuda", "arch": "sm_90"}, host={"kind": "llvm"})
    try:
        tvm.compile(tvm.IRModule({"add": add}), target=target).export_library(str(tmp_path / "model.so"))
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        pytest.skip(f"this TVM does not lower to CUDA here: {str(error).splitlines()[0]}")
    proof = proof_of(tmp_path, target="cuda-sm90")
    assert any("GPU source text" in problem for problem in proof.problems)


def test_a_fat_binary_that_is_cut_short_is_caught(tmp_path: Path) -> None:
    made = fatbin(tmp_path / "k.fatbin", "sm_90").read_bytes()
    (tmp_path / "k.fatbin").unlink()
    (tmp_path / "model.so").write_bytes(made[: len(made) // 2])
    assert any("cut short" in problem for problem in proof_of(tmp_path, target="cuda-sm90").problems)


def test_kernels_that_are_launched_must_be_in_the_code(tmp_path: Path) -> None:
    fatbin(tmp_path / "kernels.fatbin", "sm_90")
    (tmp_path / "launches.json").write_text('{"kernels": {"ad": {}}}')
    said = proof_of(tmp_path, target="cuda-sm90", entry="kernels.fatbin").problems
    assert said == (
        "`launches.json` launches `ad`, which `kernels.fatbin` does not hold for every architecture",
    )
    (tmp_path / "launches.json").write_text('{"kernels": []}')
    assert proof_of(tmp_path, target="cuda-sm90", entry="kernels.fatbin").problems == (
        "`launches.json` cannot be read",
    )
    (tmp_path / "launches.json").unlink()
    assert proof_of(tmp_path, target="cuda-sm90").sound


@pytest.mark.slow
def test_what_tvm_makes_for_gpus_is_what_its_manifest_says(tvm_artifact: Built, tmp_path: Path) -> None:
    toolchain = find_toolchain("tvm")
    target = find_target("cuda-sm90")
    source = LoweringInput(
        tvm_artifact.recipe,
        tvm_artifact.facts,
        tvm_artifact.out / "graph" / "model.onnx",
        tvm_artifact.weights,
    )
    try:
        lowered = toolchain.lower(source, target, out=tmp_path)
    except ToolchainMissingError as error:
        pytest.skip(error.message)
    proof = proof_of(tmp_path, target="cuda-sm90", entry=lowered.entry)
    assert proof.sound, proof.problems
    assert only(proof, "fatbin").architectures == ("sm_90",)
    assert only(proof, "fatbin").exports


# IREE


def test_an_iree_module_holds_code_for_its_target(iree_artifact: tuple[str, Path]) -> None:
    target, folder = iree_artifact
    proof = proof_of(folder, target=target, form="iree")
    assert proof.sound, proof.problems
    kinds = {"rocm": "hsaco", "cuda": "ptx", "vulkan": "spirv", "cpu": "elf"}
    binary = only(proof, kinds[find_target(target).kind])
    assert binary.offset > 0
    if find_target(target).kind in ("rocm", "cuda"):
        assert binary.architectures == (find_target(target).architecture,)
        assert binary.exports
    if find_target(target).kind in ("cuda", "vulkan"):
        assert "the driver compiles" in proof.summary


def test_an_iree_module_of_another_target_is_caught(iree_artifact: tuple[str, Path]) -> None:
    made_for, folder = iree_artifact
    for declared in IREE_TARGETS:
        if declared != made_for:
            assert not proof_of(folder, target=declared, form="iree").sound


def test_wrong_amdgpu_flags_are_caught(tmp_path: Path) -> None:
    iree_module(tmp_path / "model.vmfb", *IREE_TARGETS["rocm-gfx942"])
    data = bytearray((tmp_path / "model.vmfb").read_bytes())
    place = data.index(b"\x7fELF") + 48
    (flags,) = struct.unpack_from("<I", data, place)
    assert flags & 0xFF == 0x4C
    struct.pack_into("<I", data, place, flags & ~0xFF | 0x3F)
    (tmp_path / "model.vmfb").write_bytes(bytes(data))
    said = "\n".join(proof_of(tmp_path, target="rocm-gfx942", form="iree").problems)
    assert "has the flags of gfx90a, and its metadata says" in said
    assert "the manifest says gfx942, `model.vmfb` holds hsaco code for gfx90a" in said
    assert "damaged" in said  # the container's own check sum


def test_an_iree_module_that_is_cut_short_is_caught(iree_artifact: tuple[str, Path], tmp_path: Path) -> None:
    target, folder = iree_artifact
    data = (folder / "model.vmfb").read_bytes()
    for share in (0.4, 0.9):
        (tmp_path / "model.vmfb").write_bytes(data[: int(share * len(data))])
        assert not proof_of(tmp_path, target=target, form="iree").sound


# Graphs


def graph(path: Path, *nodes: onnx.NodeProto, extent: int | str = 4) -> None:
    given = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [extent, 4])]
    made = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [extent, 4])]
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    whole = helper.make_model(helper.make_graph(list(nodes), "g", given, made), opset_imports=imports)
    path.write_bytes(whole.SerializeToString())


RELU = helper.make_node("Relu", ["x"], ["y"])


def context_node(file: str = "ctx.bin", source: str = "QNN") -> onnx.NodeProto:
    return helper.make_node(
        "EPContext", ["x"], ["y"], domain="com.microsoft", embed_mode=0, ep_cache_context=file, source=source
    )


def context_bytes(architecture: int) -> bytes:
    """The parts of an HTP context binary that are read."""
    body = b"graph;soc_type=SC8380XP;arch=%d;num_nsps=1;" % architecture
    head = bytes.fromhex("0000000200000003") + struct.pack("<QQQQ", 1, 0x40, 64, len(body))
    return head.ljust(64, b"\0") + body


def test_an_onnxruntime_graph_has_no_machine_code_and_says_so(tmp_path: Path) -> None:
    graph(tmp_path / "model.onnx", RELU, extent="n")
    proof = proof_of(tmp_path, target="cpu-x86-64-v3", form="onnxruntime")
    assert proof.sound, proof.problems
    assert "no machine code" in proof.summary
    graph(tmp_path / "model.onnx", helper.make_node("Relu", ["x"], ["y"], domain="my.ops"))
    assert any(
        "`my.ops`" in p for p in proof_of(tmp_path, target="cpu-x86-64-v3", form="onnxruntime").problems
    )
    graph(tmp_path / "model.onnx", context_node())
    assert not proof_of(tmp_path, target="cpu-x86-64-v3", form="onnxruntime").sound


def test_a_library_beside_an_onnxruntime_graph_is_caught(tmp_path: Path) -> None:
    graph(tmp_path / "model.onnx", RELU)
    c_library("x86_64", tmp_path / "zz.so")
    said = proof_of(tmp_path, target="cpu-x86-64-v3", form="onnxruntime").problems
    assert any("`zz.so` holds elf code" in problem for problem in said)


def test_a_portable_graph_is_static_and_of_operators_that_its_converter_takes(tmp_path: Path) -> None:
    def problems(toolchain: str = "openvino") -> tuple[str, ...]:
        return proof_of(tmp_path, target="npu-intel", form="portable", toolchain=toolchain).problems

    graph(tmp_path / "model.onnx", helper.make_node("MatMul", ["x", "x"], ["y"]))
    assert problems() == ()
    assert any("no list" in problem for problem in problems("atc"))
    graph(tmp_path / "model.onnx", RELU, extent="n")
    assert any("static shapes" in problem for problem in problems())
    graph(tmp_path / "model.onnx", helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft"))
    assert any("uses com.microsoft.Gelu, which" in problem for problem in problems())


def test_a_qnn_context_is_for_its_target_and_leaves_nothing_to_the_processor(tmp_path: Path) -> None:
    graph(tmp_path / "a.onnx", context_node())
    (tmp_path / "ctx.bin").write_bytes(context_bytes(73))
    proof = proof_of(tmp_path, target="npu-qnn-v73", form="qnn")
    assert proof.sound, proof.problems
    assert only(proof, "qnn-context").architectures == ("v73",)
    said = proof_of(tmp_path, target="npu-qnn-v75", form="qnn").problems
    assert said == ("the manifest says v75, `ctx.bin` holds a graph for v73 (SC8380XP)",)
    graph(tmp_path / "a.onnx", context_node("ctx.bin"), helper.make_node("Relu", ["y"], ["z"]))
    assert any("leaves nodes" in p for p in proof_of(tmp_path, target="npu-qnn-v73", form="qnn").problems)
    graph(tmp_path / "a.onnx", context_node("other.bin", "OpenVINO"))
    said = proof_of(tmp_path, target="npu-qnn-v73", form="qnn").problems
    assert len([p for p in said if "`OpenVINO`" in p or "`other.bin`" in p or "no graph names" in p]) == 3


@pytest.mark.parametrize("damage", ["half", "garbage", "no graph"])
def test_a_damaged_context_is_caught(damage: str, tmp_path: Path) -> None:
    graph(tmp_path / "a.onnx", context_node())
    whole = context_bytes(73)
    content = {"half": whole[:-9], "garbage": b"\x01" * 99, "no graph": whole.replace(b"arch=73", b"arch=xx")}
    (tmp_path / "ctx.bin").write_bytes(content[damage])
    assert any("`ctx.bin`" in p for p in proof_of(tmp_path, target="npu-qnn-v73", form="qnn").problems)


def test_qualcomms_libraries_are_never_part_of_an_artifact(tmp_path: Path) -> None:
    graph(tmp_path / "a.onnx", context_node())
    (tmp_path / "ctx.bin").write_bytes(context_bytes(73))
    c_library("x86_64", tmp_path / "libQnnHtpV73Skel.so")
    said = proof_of(tmp_path, target="npu-qnn-v73", form="qnn").problems
    assert any("its vendor's licence" in problem for problem in said)


def test_a_format_without_a_form_for_the_target_is_caught(tmp_path: Path) -> None:
    graph(tmp_path / "model.onnx", RELU)
    assert any("no form" in p for p in proof_of(tmp_path, target="cuda-sm90", form="qnn").problems)
