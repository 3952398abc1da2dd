"""IREE modules on this machine's CPU: the session's promises, parity with torch, and what is refused."""

from __future__ import annotations

import ctypes
import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compilers.iree.device import open_device
from compilers.iree.lower import MODULE_NAME
from compilers.iree.run import IreeRuntime
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import Bundle, FloatArray, Segment, Session
from compilers.toolchain import Supported, Unsupported
from registry.errors import LoadError
from tests.compilers.conftest import this_host
from tests.compilers.session_contract import SessionContract, draw
from tests.compilers.shapes import SHAPES
from tests.compilers.static.test_session import compare

pytest.importorskip("iree.compiler", reason="IREE's compiler is not installed")
pytest.importorskip("iree.runtime", reason="IREE's runtime is not installed")


@pytest.fixture(scope="module")
def artifact(checkpoint_of: Callable[..., Path], build: Callable[..., Any]) -> Any:
    """One that several tests load."""
    return build(checkpoint_of(**SHAPES["qwen2 with a window on one layer"]), toolchain="iree")


class TestIreeSession(SessionContract):
    @pytest.fixture(scope="class", params=[1, 2])
    @classmethod
    def session(cls, request: pytest.FixtureRequest, artifact: Any) -> Session:
        return artifact.load(threads=request.param)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "recipe"),
    [
        ("qwen3, heads of 24", "fp32"),
        ("llama with every bias, full attention, tied, heads of 20", "fp16"),
        ("llama with yarn", "w8g32-rtn"),
        ("qwen2, one key head for seven, tied", "w4g32-rtn"),
    ],
)
def test_logits_are_torchs_on_the_same_weights(
    shape: str, recipe: str, checkpoint_of: Callable[..., Path], build: Callable[..., Any]
) -> None:
    checkpoint = checkpoint_of(**SHAPES[shape])
    built = build(checkpoint, toolchain="iree", recipe=recipe)
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    compare(built.load(), reference, atol=2e-5)


def logits(session: Session) -> FloatArray:
    cache = session.new_cache(rows=1, capacity=40)
    return session.forward(cache, [Segment(0, draw(5, 37), "all")])[0]


@pytest.mark.parametrize("threads", [1, 2])
def test_two_versions_in_one_process_keep_their_weights(
    threads: int, artifact: Any, checkpoint_of: Callable[..., Path], build: Callable[..., Any], tmp_path: Path
) -> None:
    other = build(checkpoint_of(**SHAPES["qwen2 with a window on one layer"], seed=9))
    shutil.copy(artifact.out / MODULE_NAME, tmp_path)
    shutil.copy(artifact.out / "plan.json", tmp_path)
    shutil.copy(other.weights, tmp_path)
    first = artifact.load(threads=threads)
    before = logits(first)
    second = IreeRuntime().load(Bundle(artifact.manifest, tmp_path), this_host(), threads=threads)
    assert np.abs(logits(second) - before).max() > 0.1
    after = logits(second)
    np.testing.assert_array_equal(logits(first), before)
    del first
    np.testing.assert_array_equal(logits(second), after)
    np.testing.assert_allclose(after, logits(TorchSession(other.checkpoint)), rtol=0, atol=2e-5)


def test_threads_are_made_as_many_as_asked(artifact: Any) -> None:
    def count() -> int:
        gc.collect()
        return len(list(Path("/proc/self/task").iterdir()))

    before = count()
    alone = artifact.load(threads=1)
    with_one = count()
    three = artifact.load(threads=3)
    assert with_one <= before + 1  # each device has a thread that waits for events
    assert count() == with_one + 4
    np.testing.assert_allclose(logits(alone), logits(three), rtol=0, atol=2e-5)


def copied(artifact: Any, tmp_path: Path) -> Bundle:
    for name in (MODULE_NAME, "plan.json", "weights.safetensors"):
        shutil.copy(artifact.out / name, tmp_path)
    return Bundle(artifact.manifest, tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.2, 0.6])
def test_a_module_that_is_cut_short_is_refused(share: float, artifact: Any, tmp_path: Path) -> None:
    bundle = copied(artifact, tmp_path)
    data = (tmp_path / MODULE_NAME).read_bytes()
    (tmp_path / MODULE_NAME).write_bytes(data[: int(share * len(data))])
    with pytest.raises(LoadError, match="decoder"):
        IreeRuntime().load(bundle, this_host())


def test_weights_of_another_form_are_refused(
    artifact: Any, checkpoint_of: Callable[..., Path], build: Callable[..., Any], tmp_path: Path
) -> None:
    bundle = copied(artifact, tmp_path)
    shutil.copy(build(artifact.checkpoint, recipe="w8g32-rtn").weights, tmp_path)
    with pytest.raises(LoadError, match=MODULE_NAME):
        IreeRuntime().load(bundle, this_host())
    (tmp_path / "weights.safetensors").write_bytes(b"no header")
    with pytest.raises(LoadError, match="weights"):
        IreeRuntime().load(bundle, this_host())


def test_a_host_without_the_targets_device_is_refused(artifact: Any) -> None:
    runtime, host = IreeRuntime(), this_host()
    assert isinstance(runtime.supports(artifact.manifest, host), Supported)
    for name in ("rocm-gfx942", "cuda-sm80", "vulkan-spirv", "cpu-aarch64-neoverse-n1", "npu-qnn-v73"):
        manifest = artifact.manifest.model_copy(update={"target": name})
        assert isinstance(runtime.supports(manifest, host), Unsupported)
        with pytest.raises(LoadError, match="cannot run here"):
            runtime.load(Bundle(manifest, artifact.out), host)


@pytest.mark.parametrize(("driver", "library"), [("hip", "libamdhip64.so"), ("cuda", "libcuda.so.1")])
def test_an_absent_driver_is_an_error_and_no_fallback(driver: str, library: str) -> None:
    try:
        ctypes.CDLL(library)
    except OSError:
        with pytest.raises(LoadError, match=f"driver `{driver}`"):
            open_device(driver)
    else:
        pytest.skip(f"this machine has {library}")


def test_code_of_another_device_does_not_load_on_the_cpu(
    artifact: Any, build: Callable[..., Any], tmp_path: Path
) -> None:
    other = build(artifact.checkpoint, toolchain="iree", target="cpu-aarch64-neoverse-n1")
    bundle = copied(artifact, tmp_path)
    shutil.copy(other.out / MODULE_NAME, tmp_path)
    with pytest.raises(LoadError, match=MODULE_NAME):
        IreeRuntime().load(bundle, this_host())
