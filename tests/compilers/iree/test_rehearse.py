"""Vulkan modules executed by Mesa's llvmpipe, Arm ones under QEMU, and what has no stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compilers.backend import rehearse
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.runtime import Bundle
from compilers.toolchain import Unsupported
from registry.errors import LoadError
from tests.compilers.aarch64_emulation.conftest import aarch64_root, emulated  # noqa: F401  # fixtures
from tests.compilers.static.test_session import compare

pytest.importorskip("iree.compiler", reason="IREE's compiler is not installed")
pytest.importorskip("iree.runtime", reason="IREE's runtime is not installed")

ONE_LAYER = {"architecture": "Qwen2ForCausalLM", "num_hidden_layers": 1}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "fp16", "w8g32-rtn"])
def test_spirv_gives_torchs_logits_on_llvmpipe(
    recipe: str, checkpoint_of: Callable[..., Path], build: Callable[..., Any]
) -> None:
    checkpoint = checkpoint_of(**ONE_LAYER)
    built = build(checkpoint, toolchain="iree", target="vulkan-spirv", recipe=recipe)
    rehearsal = rehearse(Bundle(built.manifest, built.out))
    if isinstance(rehearsal, Unsupported):
        pytest.skip(rehearsal.reason)
    assert "llvmpipe" in rehearsal.means
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    compare(rehearsal.session, reference, atol=2e-5)


def test_a_damaged_module_is_an_error_and_not_a_missing_stand_in(
    checkpoint_of: Callable[..., Path], build: Callable[..., Any]
) -> None:
    built = build(checkpoint_of(**ONE_LAYER), toolchain="iree", target="vulkan-spirv")
    bundle = Bundle(built.manifest, built.out)
    if isinstance(found := rehearse(bundle), Unsupported):
        pytest.skip(found.reason)
    (built.out / built.manifest.entry).write_bytes(b"damaged")
    with pytest.raises(LoadError):
        rehearse(bundle)


def test_targets_without_a_stand_in_say_so(
    checkpoint_of: Callable[..., Path], build: Callable[..., Any]
) -> None:
    built = build(checkpoint_of(**ONE_LAYER), toolchain="iree")
    for name in ("rocm-gfx942", "cuda-sm80"):
        manifest = built.manifest.model_copy(update={"target": name})
        assert isinstance(rehearse(Bundle(manifest, built.out)), Unsupported)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fp32", "w4g32-rtn"])
def test_aarch64_code_gives_torchs_logits_under_qemu(
    recipe: str,
    emulated: Path,  # noqa: F811
    checkpoint_of: Callable[..., Path],
    build: Callable[..., Any],
) -> None:
    checkpoint = checkpoint_of(**ONE_LAYER)
    built = build(checkpoint, toolchain="iree", target="cpu-aarch64-neoverse-n1", recipe=recipe)
    rehearsal = rehearse(Bundle(built.manifest, built.out))
    if isinstance(rehearsal, Unsupported):
        pytest.skip(rehearsal.reason)
    assert "qemu-aarch64" in rehearsal.means
    reference = TorchSession(checkpoint, weights=dequantized_state(built.weights, built.recipe))
    compare(rehearsal.session, reference, atol=2e-5)
