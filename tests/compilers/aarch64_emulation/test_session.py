"""Artifacts for AArch64, executed under QEMU: parity with torch, and what an emulated session refuses."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from compilers.aarch64_emulation.session import EmulatedSession, rehearse_aarch64
from compilers.backend import find_format, find_toolchain, rehearse
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.rehearsal import Rehearsal
from compilers.runtime import Bundle, Segment, Session
from compilers.toolchain import LoweringInput, Unsupported
from registry.errors import LoadError
from registry.target import find_target
from tests.compilers.conftest import Built
from tests.compilers.references import references_of
from tests.compilers.session_contract import SessionContract, draw

pytestmark = pytest.mark.slow
Builder = Callable[..., Built]
TARGET = "cpu-aarch64-neoverse-n1"
SEQUENCES = [draw(0, 60), draw(1, 33), draw(2, 1), draw(3, 14)]


def for_arm(built: Built, out: Path, *, target: str = TARGET, toolchain: str = "tvm") -> Bundle:
    """A variant, lowered for Arm."""
    maker = find_toolchain(toolchain)
    source = LoweringInput(built.recipe, built.facts, built.out / "graph" / "model.onnx", built.weights)
    out.mkdir()
    lowered = maker.lower(source, find_target(target), out=out)
    shutil.copy(built.weights, out / "weights.safetensors")
    changes = {
        "format": maker.produces, "toolchain": toolchain, "target": target, "entry": lowered.entry,
        "options": dict(lowered.options),
    }  # fmt: skip
    return Bundle(built.manifest.model_copy(update=changes), out)


def logits_of(session: Session) -> np.ndarray:
    cache = session.new_cache(rows=len(SEQUENCES), capacity=64)
    found = session.forward(cache, [Segment(row, ids, "all") for row, ids in enumerate(SEQUENCES)])
    for token in (5, 7):
        found += session.forward(cache, [Segment(row, [token]) for row in range(len(SEQUENCES))])
    return np.concatenate(found)


@pytest.fixture(scope="module")
def rehearsal(
    emulated: Path,
    checkpoint_of: Callable[..., Path],
    build: Builder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Rehearsal]:
    built = build(checkpoint_of(architecture="LlamaForCausalLM"), toolchain="tvm")
    opened = rehearse(for_arm(built, tmp_path_factory.mktemp("arm") / "bundle"))
    assert isinstance(opened, Rehearsal)
    yield opened
    assert isinstance(opened.session, EmulatedSession)
    opened.session.close()


class TestEmulatedSession(SessionContract):
    @pytest.fixture(scope="class")
    @classmethod
    def session(cls, rehearsal: Rehearsal) -> Session:
        return rehearsal.session


def test_a_rehearsal_names_its_means_and_the_runtime_in_the_root(rehearsal: Rehearsal) -> None:
    assert rehearsal.means.startswith("qemu-aarch64 ")
    assert rehearsal.means.endswith("(neoverse-n1)")
    assert rehearsal.runtime_version == find_toolchain("tvm").version()


@pytest.mark.parametrize(
    ("toolchain", "recipe", "target", "tolerance"),
    [
        ("tvm", "fp32", "cpu-aarch64-v8", 1e-4),
        ("tvm", "fp16", TARGET, 1e-4),
        ("onnxruntime", "fp32", TARGET, 1e-4),
    ],
)
def test_logits_on_an_emulated_arm_are_torchs(
    toolchain: str,
    recipe: str,
    target: str,
    tolerance: float,
    emulated: Path,
    checkpoint_of: Callable[..., Path],
    build: Builder,
    tmp_path: Path,
) -> None:
    checkpoint = checkpoint_of(architecture="Qwen2ForCausalLM")
    built = build(checkpoint, recipe=recipe, toolchain="onnxruntime")
    reference = logits_of(TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe)))
    opened = rehearse_aarch64(for_arm(built, tmp_path / "bundle", target=target, toolchain=toolchain))
    assert isinstance(opened, Rehearsal)
    np.testing.assert_allclose(logits_of(opened.session), reference, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    ("recipe", "target"),
    [("w4g32-rtn", TARGET), ("w4g32-rtn", "cpu-aarch64-v8"), ("w8a8-dynamic", TARGET)],  # with sdot, without
)
def test_integer_products_on_an_emulated_arm_are_within_the_bounds_of_parity(
    recipe: str,
    target: str,
    emulated: Path,
    checkpoint_of: Callable[..., Path],
    build: Builder,
    tmp_path: Path,
) -> None:
    checkpoint = checkpoint_of(architecture="LlamaForCausalLM")
    built = build(checkpoint, recipe=recipe, toolchain="tvm")
    opened = rehearse_aarch64(for_arm(built, tmp_path / "bundle", target=target))
    assert isinstance(opened, Rehearsal)
    probe = [draw(10 + row, count) for row, count in enumerate((60, 41, 20, 9))]
    references = references_of(checkpoint, probe, weights=dequantized_state(built.weights, built.recipe))
    parity = references.parity(opened.session, recipe=built.recipe, toolchain="tvm")
    assert parity.within, parity.reason
    # One activation on the edge between two integers makes such a difference, in all that follows it.
    difference = np.abs(logits_of(opened.session) - logits_of(built.load()))
    assert np.median(difference) < 1e-5
    assert difference.max() < 1e-1


def test_a_damaged_library_is_refused_and_nothing_hangs(
    emulated: Path, checkpoint_of: Callable[..., Path], build: Builder, tmp_path: Path
) -> None:
    built = build(checkpoint_of(architecture="LlamaForCausalLM"), toolchain="tvm")
    bundle = for_arm(built, tmp_path / "bundle")
    library = bundle.path / "model.so"
    library.write_bytes(library.read_bytes()[:5000])
    with pytest.raises(LoadError, match="under emulation"):
        rehearse_aarch64(bundle)
    library.write_bytes((built.out / "model.so").read_bytes())
    with pytest.raises(LoadError, match="not a shared library for aarch64"):
        rehearse_aarch64(bundle)


def test_a_process_that_dies_is_an_error_that_says_so(
    emulated: Path, checkpoint_of: Callable[..., Path], build: Builder, tmp_path: Path
) -> None:
    opened = rehearse_aarch64(
        for_arm(build(checkpoint_of(architecture="LlamaForCausalLM"), toolchain="tvm"), tmp_path / "bundle")
    )
    assert isinstance(opened, Rehearsal)
    session = opened.session
    assert isinstance(session, EmulatedSession)
    cache = session.new_cache(rows=1, capacity=8)
    session._process.send_signal(signal.SIGKILL)
    with pytest.raises(LoadError, match="died under emulation"):
        session.forward(cache, [Segment(0, [1, 2])])


def test_without_a_root_or_for_another_target_it_is_unsupported_with_the_remedy(
    checkpoint_of: Callable[..., Path], build: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(checkpoint_of(architecture="LlamaForCausalLM"), toolchain="onnxruntime")
    bundle = Bundle(built.manifest.model_copy(update={"target": TARGET}), built.out)
    monkeypatch.setenv("RUNG_AARCH64_ROOT", "/nowhere")
    found = rehearse_aarch64(bundle)
    assert isinstance(found, Unsupported)
    assert "qemu-user-static" in found.reason or "compilers.aarch64_emulation.root" in found.reason
    other = rehearse_aarch64(Bundle(built.manifest, built.out))
    assert isinstance(other, Unsupported)
    assert built.manifest.target in other.reason


def test_formats_with_code_for_arm_have_a_rehearsal() -> None:
    assert all(find_format(name).rehearse is not None for name in ("tvm", "onnxruntime", "iree"))
