"""The bound of float parity: what torch's own rounding explains is accepted, four times that is not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from compilers.check.bounds import FLOAT_BOUND
from compilers.check.float_error import FloatError, float_error, float_figures
from compilers.check.probe import LONGEST, TAIL, counted, make_probe, reference_logits, stepwise_logits
from compilers.check.torch_precision import exact_logits, torch_error
from compilers.model.torch_reference import TorchSession, load_model
from registry.errors import CheckpointError, CorruptError
from registry.recipe import parse_recipe
from tests.compilers.references import References, references_of
from tests.compilers.session_contract import draw

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM", "spread": 1.5},
    "qwen2 with a window of 20": {
        "architecture": "Qwen2ForCausalLM",
        "use_sliding_window": True,
        "sliding_window": 20,
        "max_window_layers": 1,
    },
    "qwen3": {"architecture": "Qwen3ForCausalLM", "head_dim": 24},
}
TEXTS = [draw(100 + seed, 20 + 3 * seed) for seed in range(12)]


@pytest.fixture(scope="module", params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path]) -> Path:
    return checkpoint_of(**SHAPES[request.param])


@pytest.fixture(scope="module")
def references(checkpoint: Path) -> References:
    return references_of(checkpoint, make_probe(TEXTS, vocab_size=300, max_context=128, window=20))


def damaged(checkpoint: Path, out: Path, *, config: dict[str, Any], scale: dict[str, float]) -> Path:
    """A copy of a checkpoint with other settings, and tensors times a factor."""
    shutil.copytree(checkpoint, out)
    found = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(found | config))
    state = load_file(out / "model.safetensors")
    for name, factor in scale.items():
        state[name] = state[name] * np.float32(factor)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize("toolchain", ["onnxruntime", "tvm"])
def test_correct_builds_are_accepted_and_damaged_ones_are_not(
    toolchain: str, checkpoint: Path, references: References, build: Callable[..., Any], tmp_path: Path
) -> None:
    built = build(checkpoint, toolchain=toolchain).load()
    parity = references.parity(built, recipe=parse_recipe("fp32"), toolchain=toolchain)
    assert parity.within, parity.reason
    norm = "model.layers.1.input_layernorm.weight"
    for index, (config, scale) in enumerate([({"rms_norm_eps": 1e-5}, {}), ({}, {norm: 1.0001})]):
        wrong = damaged(checkpoint, tmp_path / str(index), config=config, scale=scale)
        moved = exact_logits(TorchSession(wrong), references.probe)
        effect = float_figures(moved, exact=references.variant_logits, error=references.error)
        assert effect.overall > 4
        parity = references.parity(
            build(wrong, toolchain=toolchain).load(), recipe=parse_recipe("fp32"), toolchain=toolchain
        )
        assert not parity.within, parity.reason


def test_a_window_that_is_off_by_one_is_refused(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(**SHAPES["qwen2 with a window of 20"])
    references = references_of(checkpoint, make_probe([], vocab_size=300, max_context=128, window=20))
    wrong = damaged(checkpoint, tmp_path / "wrong", config={"sliding_window": 21}, scale={})
    parity = references.parity(TorchSession(wrong), recipe=parse_recipe("fp32"), toolchain="onnxruntime")
    assert not parity.within


def test_sums_in_half_where_none_are_declared_are_refused(checkpoint: Path, references: References) -> None:
    session = TorchSession(checkpoint)
    for module in session.model.modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, given, made: made.half().float())
    parity = references.parity(session, recipe=parse_recipe("fp32"), toolchain="onnxruntime")
    assert not parity.within


def test_an_error_in_one_token_or_one_position_is_found(references: References) -> None:
    exact, error = references.variant_logits, references.error
    typical = float(np.median(error.positions))
    one_token = exact.copy()
    one_token[:, 17] += np.float32(20 * typical)
    one_position = exact.copy()
    one_position[3] += np.float32(100) * error.positions[3]
    for run in (one_token, one_position):
        assert not float_figures(run, exact=exact, error=error).within(FLOAT_BOUND)


def test_torch_is_asked_without_masks_and_left_as_it_was(checkpoint: Path) -> None:
    session, tokens = TorchSession(checkpoint), draw(0, 40)
    before = {name: value.clone() for name, value in session.model.state_dict().items()}
    exact = exact_logits(session, [tokens])
    torch_error(session, [tokens], exact=exact)
    for name, value in session.model.state_dict().items():
        assert torch.equal(value, before[name]), name
    with torch.no_grad():
        whole = load_model(checkpoint).double()(torch.tensor([tokens])).logits[0].numpy()
    np.testing.assert_allclose(exact, whole, atol=2e-5)


def test_a_session_that_reads_another_window_than_transformers_is_refused(
    checkpoint_of: Callable[..., Path],
) -> None:
    session = TorchSession(checkpoint_of(**SHAPES["qwen2 with a window of 20"]))
    windows = tuple(window and window + 1 for window in session.architecture.windows)
    session.architecture = session.architecture.model_copy(update={"windows": windows})
    probe = [draw(0, 60), draw(1, 30)]
    with pytest.raises(CheckpointError, match="transformers computes other logits"):
        torch_error(session, probe, exact=exact_logits(session, probe))


def test_the_probe_is_longer_than_a_window_and_of_a_long_sequence_the_end_counts(
    checkpoint_of: Callable[..., Path],
) -> None:
    window = LONGEST + 40
    probe = make_probe(TEXTS, vocab_size=300, max_context=512, window=window)
    assert len(probe[0]) == window + TAIL
    assert counted(probe[0]) == TAIL
    assert len(make_probe(TEXTS, vocab_size=300, max_context=window + 3, window=window)[0]) == window + 3
    session = TorchSession(
        checkpoint_of(architecture="MistralForCausalLM", sliding_window=window, max_position_embeddings=512)
    )
    exact = exact_logits(session, probe)
    assert reference_logits(session, probe).shape == stepwise_logits(session, probe).shape == exact.shape
    assert torch_error(session, probe, exact=exact).positions.shape == (len(exact),)


def test_an_error_reads_back_and_damage_is_an_error() -> None:
    numbers = np.random.default_rng(0)
    exact = numbers.standard_normal((5, 9)).astype(np.float32)
    runs = [exact + np.float32(1e-6) * numbers.standard_normal((5, 9)).astype(np.float32) for _ in range(3)]
    error = float_error(runs, exact=exact)
    again = FloatError.from_bytes(error.to_bytes())
    assert error.to_bytes() == again.to_bytes()
    with pytest.raises(CorruptError):
        FloatError.from_bytes(b"nothing")
    assert float_figures(runs[0], exact=exact, error=error).within(FLOAT_BOUND)
