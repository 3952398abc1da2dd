"""HTP context binaries: compiled on x86, executed by Qualcomm's emulation, held against torch."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from compilers.backend import find_runtime, find_toolchain, rehearse
from compilers.check.parity import Parity
from compilers.check.probe import make_probe
from compilers.model.weights import read_layout
from compilers.qnn.lower import QnnToolchain
from compilers.qnn.provider import CHIPS, find_provider
from compilers.qnn.run import QnnRuntime
from compilers.qnn.step import open_qnn_session
from compilers.quantize.canonical import dequantized_state
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle, Session
from compilers.toolchain import LoweringInput, Supported, Unsupported
from registry.artifact import Manifest
from registry.errors import BuildError, LoadError, ToolchainMissingError
from registry.host import Accelerator, Host
from registry.recipe import KNOWN, parse_recipe
from registry.target import find_target, targets
from tests.compilers.references import references_of
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.static.sources import source_of

pytest.importorskip("onnxruntime_qnn", reason="needs `rung[qnn]`")

NO_DIGEST = "sha256:" + "0" * 64
RECIPES = ("fp16", "w8a16", "w4a16")
TEXTS = [draw(seed, 20) for seed in range(12)]
LICENSED = (b"libQnnHtp", b"libQnnSystem", b"libonnxruntime", b"\x7fELF")


def lower(
    checkpoint: Path, out: Path, *, recipe: str, target: str = "npu-qnn-v73"
) -> tuple[LoweringInput, Bundle]:
    """A checkpoint's artifact."""
    source = source_of(checkpoint, out, recipe=recipe, calibration=TEXTS)
    made = out / "out"
    made.mkdir()
    lowered = find_toolchain("qnn").lower(source, find_target(target), out=made)
    assert sorted(path.name for path in made.iterdir()) == list(lowered.files)
    manifest = Manifest(
        build_key=NO_DIGEST, format="qnn", toolchain="qnn", toolchain_version=QnnToolchain().version(),
        target=target, checkpoint="tiny/1", checkpoint_digest=NO_DIGEST, family="tiny", licence="unknown",
        recipe=recipe, facts=source.facts, files=(), entry=lowered.entry, options=dict(lowered.options),
        memory_bytes=0, kv_bytes_per_token=0,
    )  # fmt: skip
    return source, Bundle(manifest, made)


@pytest.fixture(scope="module")
def checkpoint(checkpoint_of: Callable[..., Path]) -> Path:
    """Of few positions: the emulation takes its time over each of them."""
    return checkpoint_of(architecture="Qwen2ForCausalLM", max_position_embeddings=24)


@pytest.fixture(scope="module")
def made(
    checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[LoweringInput, Bundle]]:
    """One artifact per recipe."""
    return {
        recipe: lower(
            checkpoint,
            tmp_path_factory.mktemp(recipe),
            recipe=recipe,
            target="npu-qnn-v75" if recipe == "w8a16" else "npu-qnn-v73",
        )
        for recipe in RECIPES
    }


def parity_of(bundle: Bundle, source: LoweringInput, checkpoint: Path) -> Parity:
    """What the emulation computes, held against torch with the source's weights."""
    rehearsal = rehearse(bundle)
    assert isinstance(rehearsal, Rehearsal)
    assert rehearsal.means.startswith("QNN HTP emulation 2.")
    probe = make_probe(TEXTS, vocab_size=300, max_context=16)[:2]
    references = references_of(checkpoint, probe, weights=dequantized_state(source.weights, source.recipe))
    return references.parity(rehearsal.session, recipe=source.recipe, toolchain="qnn")


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_emulation_computes_what_torch_says_of_the_variant(
    recipe: str, made: dict[str, tuple[LoweringInput, Bundle]], checkpoint: Path
) -> None:
    source, bundle = made[recipe]
    parity = parity_of(bundle, source, checkpoint)
    assert parity.within, parity.reason


@pytest.mark.parametrize("recipe", RECIPES)
def test_scales_that_are_off_by_three_percent_are_caught(
    recipe: str, made: dict[str, tuple[LoweringInput, Bundle]], checkpoint: Path, tmp_path: Path
) -> None:
    source, bundle = made[recipe]
    data = bytearray(source.weights.read_bytes())
    draw_factor = np.random.default_rng(1)
    for name, place in read_layout(source.weights).tensors.items():
        if name.endswith(".scales") or (recipe == "fp16" and name.endswith("_proj.weight")):
            kind = np.float32 if place.dtype == "F32" else np.float16
            span = slice(place.offset, place.offset + place.size_bytes)
            values = np.frombuffer(bytes(data[span]), kind).reshape(place.shape[0], -1)
            factors = 1 + 0.03 * draw_factor.normal(size=(place.shape[0], 1))
            data[span] = (values * factors).astype(kind).tobytes()
    (tmp_path / "weights.safetensors").write_bytes(data)
    (tmp_path / "out").mkdir()
    damaged = replace(source, weights=tmp_path / "weights.safetensors")
    QnnToolchain().lower(damaged, find_target(bundle.manifest.target), out=tmp_path / "out")
    parity = parity_of(Bundle(bundle.manifest, tmp_path / "out"), source, checkpoint)
    assert not parity.within, parity.reason


class TestQnnSession(SessionContract):
    """The session over HTP contexts keeps every promise of a session."""

    tolerance = 1e-2  # float16, summed in another order by the step of one token than by that of 64

    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, checkpoint_of: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Session:
        checkpoint = checkpoint_of(architecture="Qwen2ForCausalLM", num_hidden_layers=1)
        bundle = lower(checkpoint, tmp_path_factory.mktemp("session"), recipe="fp16")[1]
        return open_qnn_session(bundle.path, provider=find_provider(), chip=CHIPS["htp-v73"])


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_artifact_holds_contexts_for_its_chip_and_nothing_of_qualcomms_libraries(
    recipe: str, made: dict[str, tuple[LoweringInput, Bundle]]
) -> None:
    _, bundle = made[recipe]
    names = sorted(path.name for path in bundle.path.iterdir())
    assert names == ["decode.onnx", "decode_qnn.bin", "plan.json", "prefill.onnx", "prefill_qnn.bin"]
    for path in bundle.path.iterdir():
        data = path.read_bytes()
        assert not any(word in data for word in LICENSED), path.name
        assert str(bundle.path.parent).encode() not in data, path.name
        assert b"site-packages" not in data, path.name
    arch = CHIPS[find_target(bundle.manifest.target).architecture].htp_arch
    assert bundle.manifest.options["htp_arch"] == arch
    assert f";arch={arch};".encode() in (bundle.path / "decode_qnn.bin").read_bytes()


def test_equal_inputs_give_equal_files_but_for_qnns_own_numbers_and_new_weights_others(
    made: dict[str, tuple[LoweringInput, Bundle]],
    checkpoint: Path,
    checkpoint_of: Callable[..., Path],
    tmp_path: Path,
) -> None:
    (tmp_path / "same").mkdir()
    (tmp_path / "new").mkdir()
    other = checkpoint_of(architecture="Qwen2ForCausalLM", max_position_embeddings=24, seed=1)
    same = lower(checkpoint, tmp_path / "same", recipe="w4a16")[1]
    new = lower(other, tmp_path / "new", recipe="w4a16")[1]
    for path in made["w4a16"][1].path.iterdir():
        found, again = (np.frombuffer(p.read_bytes(), np.uint8) for p in (path, same.path / path.name))
        assert len(found) == len(again)
        # Some bytes differ from run to run, presumably QNN's own numbering of what is in a binary.
        assert (found != again).mean() < (0.02 if path.suffix == ".bin" else 1e-9), path.name
    first, second = ((bundle.path / "decode_qnn.bin").read_bytes() for bundle in (same, new))
    assert first != second


def test_what_htp_multiplies_is_supported_and_all_else_says_why_not(
    made: dict[str, tuple[LoweringInput, Bundle]],
) -> None:
    facts = made["fp16"][0].facts
    for target in targets().values():
        for name in KNOWN:
            support = QnnToolchain().supports(parse_recipe(name), target, facts)
            expected = target.vendor == "qualcomm" and name in RECIPES
            assert isinstance(support, Supported) == expected, (target.name, name)
            if isinstance(support, Unsupported):
                assert len(support.reason) > 20


def test_a_recipe_that_is_not_supported_is_refused_when_lowering(checkpoint: Path, tmp_path: Path) -> None:
    source = source_of(checkpoint, tmp_path, recipe="w8a8-dynamic")
    (tmp_path / "out").mkdir()
    with pytest.raises(BuildError, match="take `w8a16`"):
        QnnToolchain().lower(source, find_target("npu-qnn-v73"), out=tmp_path / "out")


def host(*accelerators: str) -> Host:
    here = tuple(Accelerator(architecture=each) for each in accelerators)
    return Host(architecture="aarch64", features=(), memory_bytes=2**34, cores=8, accelerators=here)


def test_the_runtime_takes_only_a_host_with_that_htp(made: dict[str, tuple[LoweringInput, Bundle]]) -> None:
    manifest = made["fp16"][1].manifest
    runtime = find_runtime("qnn")
    assert isinstance(runtime, QnnRuntime)
    assert isinstance(runtime.supports(manifest, host("htp-v73")), Supported)
    for other in (host(), host("htp-v75"), host("sm_90")):
        support = runtime.supports(manifest, other)
        assert isinstance(support, Unsupported)
        assert "htp-v73" in support.reason
        with pytest.raises(LoadError, match="cannot run here"):
            runtime.load(made["fp16"][1], other)


@pytest.mark.skipif(sys.platform != "linux", reason="the emulation is for Linux")
def test_an_emulation_is_never_taken_for_the_chip(made: dict[str, tuple[LoweringInput, Bundle]]) -> None:
    if not find_provider().emulates:
        pytest.skip("this machine may have the chip")
    with pytest.raises(LoadError, match="can only emulate an HTP"):
        QnnRuntime().load(made["fp16"][1], host("htp-v73"))


@pytest.mark.parametrize("name", ["decode_qnn.bin", "decode.onnx", "plan.json"])
def test_a_damaged_artifact_does_not_load(
    name: str, made: dict[str, tuple[LoweringInput, Bundle]], tmp_path: Path
) -> None:
    _, bundle = made["fp16"]
    for path in bundle.path.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() if path.name != name else b"damaged" * 64)
    with pytest.raises(LoadError):
        rehearse(Bundle(bundle.manifest, tmp_path))


def test_another_artifacts_plan_does_not_fit(
    made: dict[str, tuple[LoweringInput, Bundle]], checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    _, bundle = made["fp16"]
    (tmp_path / "deeper").mkdir()
    deeper = lower(
        checkpoint_of(architecture="Qwen2ForCausalLM", num_hidden_layers=3),
        tmp_path / "deeper",
        recipe="fp16",
    )[1]
    for path in bundle.path.iterdir():
        source = deeper if path.name == "plan.json" else bundle
        (tmp_path / path.name).write_bytes((source.path / path.name).read_bytes())
    with pytest.raises(LoadError, match="not those of its plan"):
        rehearse(Bundle(bundle.manifest, tmp_path))


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Let the environment have other versions of packages than it has."""
    really = metadata.version

    def version(name: str) -> str:
        found = versions.get(name.replace("-", "_"), really(name))
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


def test_without_the_package_the_toolchain_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime_qnn=None)
    with pytest.raises(ToolchainMissingError, match="`onnxruntime-qnn` is not installed") as raised:
        QnnToolchain().version()
    assert raised.value.exit_code == 5
    assert raised.value.hint == "install `rung[qnn]`"


def test_an_onnxruntime_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, onnxruntime="1.24.2")
    with pytest.raises(ToolchainMissingError, match=r"`onnxruntime` 1\.24\.2 is installed"):
        QnnToolchain().version()
