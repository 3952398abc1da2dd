"""IREE's build side: machine code of each target, the same bytes whatever the weights hold."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from compilers.iree.binaries import embedded_binaries
from compilers.iree.lower import MODULE_NAME, IreeToolchain
from compilers.proof.prove import prove
from compilers.toolchain import Supported, Unsupported
from registry.errors import BuildError, CorruptError, ToolchainMissingError
from registry.recipe import parse_recipe
from registry.target import find_target, targets
from tests.compilers.static.sources import source_of

pytest.importorskip("iree.compiler", reason="IREE's compiler is not installed")

ONE_LAYER = {"architecture": "Qwen2ForCausalLM", "num_hidden_layers": 1, "tie_word_embeddings": True}
CODE = {
    "cpu-x86-64-v3": ("elf", 62),
    "cpu-aarch64-neoverse-n1": ("elf", 183),
    "rocm-gfx942": ("hsaco", 224),
    "cuda-sm80": ("ptx", "sm_80"),
    "vulkan-spirv": ("spirv", 0x00010600),
}
"""Target → kind of code, and ELF machine, PTX target or newest SPIR-V version."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CODE)
def test_a_module_holds_code_for_its_target_and_no_path(
    name: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    source = source_of(checkpoint_of(**ONE_LAYER), tmp_path, recipe="fp32")
    out = tmp_path / "out"
    out.mkdir()
    lowered = IreeToolchain().lower(source, find_target(name), out=out)
    assert sorted(lowered.files) == sorted(path.name for path in out.iterdir())
    data = (out / lowered.entry).read_bytes()
    assert str(tmp_path).encode() not in data
    assert b"site-packages" not in data
    proof = prove(
        out,
        files=lowered.files,
        entry=lowered.entry,
        format="iree",
        toolchain="iree",
        target=find_target(name),
    )
    assert proof.sound, proof.problems
    kind, expected = CODE[name]
    found = embedded_binaries(out / lowered.entry)
    assert {binary.kind for binary in found} == {kind}
    for binary in found:
        code = data[binary.offset : binary.offset + binary.size]
        match kind:
            case "elf" | "hsaco":
                assert struct.unpack_from("<H", code, 18)[0] == expected
                assert b".debug_info" not in code
            case "ptx":
                assert f".target {expected}".encode() in code
                assert code.rstrip(b"\0").rstrip().endswith(b"}")
            case _:
                assert struct.unpack_from("<I", code, 4)[0] <= expected
                assert binary.size % 4 == 0


@pytest.mark.slow
def test_bytes_are_the_same_for_other_weights(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    made = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        out.mkdir()
        source = source_of(checkpoint_of(**ONE_LAYER, seed=seed), out, recipe="w4g32-rtn")
        IreeToolchain().lower(source, find_target("cpu-x86-64-v3"), out=out)
        made.append((out / MODULE_NAME).read_bytes())
    assert made[0] == made[1]


def test_weights_are_not_read(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    from compilers.model.weights import read_layout

    source = source_of(checkpoint_of(**ONE_LAYER), tmp_path, recipe="fp32")
    layout = read_layout(source.weights)
    with source.weights.open("wb") as stream:  # a hole of the right size
        stream.write(layout.header)
        stream.truncate(layout.size_bytes)
    IreeToolchain().lower(source, find_target("cpu-x86-64-v3"), out=tmp_path)
    assert (tmp_path / MODULE_NAME).stat().st_size < source.weights.stat().st_size


def test_each_target_is_supported_or_says_why_not(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    facts = source_of(checkpoint_of(**ONE_LAYER), tmp_path, recipe="fp32").facts
    said = {
        name: IreeToolchain().supports(parse_recipe("w4g32-rtn"), target, facts)
        for name, target in targets().items()
    }
    assert {name for name in CODE if not isinstance(said[name], Supported)} == {"vulkan-spirv"}
    reasons = {name: s.reason for name, s in said.items() if isinstance(s, Unsupported)}
    assert "4-bit rows" in reasons["vulkan-spirv"]
    assert "ends at sm_89" in reasons["cuda-sm90"]
    assert "several architectures" in reasons["cuda-sm80-sm89-sm90-sm100"]
    assert "qualcomm" in reasons["npu-qnn-v73"]
    wrong = IreeToolchain().supports(parse_recipe("w8a8-dynamic"), find_target("cpu-x86-64-v3"), facts)
    assert isinstance(wrong, Unsupported)


def test_iree_still_knows_no_later_cuda_architecture(
    checkpoint_of: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keeps the reason of `supports` true: when this fails, take sm_90 into `CUDA_KNOWN`."""
    import compilers.iree.lower as lower

    monkeypatch.setattr(lower, "CUDA_KNOWN", ("sm_80", "sm_89", "sm_90"))
    source = source_of(checkpoint_of(**ONE_LAYER), tmp_path, recipe="fp32")
    with pytest.raises(BuildError, match="missing GPU target"):
        IreeToolchain().lower(source, find_target("cuda-sm90"), out=tmp_path)
    assert not (tmp_path / MODULE_NAME).exists()


def test_another_version_is_a_missing_toolchain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about = tmp_path / "iree_base_compiler-2.9.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: iree-base-compiler\nVersion: 2.9.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ToolchainMissingError, match=r"2\.9\.0"):
        IreeToolchain().version()


def test_a_file_that_is_no_module_is_told(tmp_path: Path) -> None:
    for data in (b"", b"not a module" * 100):
        (tmp_path / "x.vmfb").write_bytes(data)
        with pytest.raises(CorruptError, match="not an IREE module"):
            embedded_binaries(tmp_path / "x.vmfb")
