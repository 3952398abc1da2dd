"""Whole checkpoints to canonical files: what is in them, from which checkpoints, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compilers.model.architecture import Architecture, read_architecture
from compilers.model.weights import arrange, read_layout, weights_layout
from compilers.quantize.canonical import dequantized_state, write_weights
from compilers.quantize.variant import quantize
from registry.errors import BuildError, CheckpointError, CorruptError
from registry.recipe import KNOWN, parse_recipe
from tests.checkpoints import make_checkpoint
from tests.compilers.session_contract import draw

TEXTS = [draw(seed, 12 + seed) for seed in range(12)]


def architecture_of(checkpoint: Path) -> Architecture:
    return read_architecture(json.loads((checkpoint / "config.json").read_text()), where=str(checkpoint))


@pytest.fixture
def own(checkpoint_of: Callable[..., Path], tmp_path: Path) -> Path:
    """A checkpoint that the test may damage."""
    return Path(shutil.copytree(checkpoint_of(architecture="LlamaForCausalLM"), tmp_path / "checkpoint"))


@pytest.mark.parametrize("recipe", KNOWN)
@pytest.mark.parametrize("tied", [True, False])
def test_the_file_has_its_layout_and_stands_for_the_checkpoint(
    recipe: str, tied: bool, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(architecture="Qwen2ForCausalLM", tie_word_embeddings=tied)
    architecture = architecture_of(checkpoint)
    report = quantize(
        checkpoint, parse_recipe(recipe), architecture=architecture, out=tmp_path, calibration=TEXTS
    )
    weights = tmp_path / "weights.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]
    assert read_layout(weights) == weights_layout(architecture, parse_recipe(recipe))
    original = load_file(checkpoint / "model.safetensors")
    state = dequantized_state(weights, parse_recipe(recipe))
    assert set(original) <= set(state)
    ranges = {name: state.pop(name) for name in list(state) if name.endswith("_range")}
    assert len(ranges) == (2 * len(report.errors) if recipe.endswith("a16") else 0)
    assert all(low <= 0 <= high and low < high for low, high in ranges.values())
    for name, value in state.items():
        source = original[name if name in original else "model.embed_tokens.weight"].numpy()
        if name in report.errors:
            error = float(np.square(source - value).sum() / np.square(source).sum())
            assert error == pytest.approx(report.errors[name], rel=1e-3, abs=1e-9)
            assert error < 0.03
        else:
            np.testing.assert_allclose(value, source, rtol=1e-3 if recipe == "fp16" else 0, atol=1e-7)
    assert (report.calibration_digest is not None) == recipe.endswith(("gptq", "a16"))
    assert (report.mean_error is None) == (not report.errors)


@pytest.mark.parametrize("recipe", ["fp16", "w8a8-dynamic", "w4g32-gptq", "w4a16"])
def test_equal_inputs_give_equal_bytes(
    recipe: str, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(architecture="LlamaForCausalLM")
    found = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        out = tmp_path / name
        architecture = architecture_of(checkpoint)
        quantize(checkpoint, parse_recipe(recipe), architecture=architecture, out=out, calibration=TEXTS)
        found.append((out / "weights.safetensors").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_shards_of_any_float_type_are_read(dtype: str, tmp_path: Path) -> None:
    whole = make_checkpoint(tmp_path / "whole", dtype=dtype)
    shards = make_checkpoint(tmp_path / "shards", dtype=dtype, max_shard_size="60KB")
    assert (shards / "model.safetensors.index.json").exists()
    states = []
    for checkpoint in (whole, shards):
        out = checkpoint / "out"
        out.mkdir()
        quantize(checkpoint, parse_recipe("fp32"), architecture=architecture_of(checkpoint), out=out)
        states.append((out / "weights.safetensors").read_bytes())
    assert states[0] == states[1]
    state = dequantized_state(whole / "out" / "weights.safetensors", parse_recipe("fp32"))
    for name, value in load_file(whole / "model.safetensors").items():
        np.testing.assert_array_equal(state[name], value.float().numpy())


def test_gptq_needs_a_calibration_set(own: Path, tmp_path: Path) -> None:
    for calibration in (None, [], [[]]):
        with pytest.raises(BuildError, match="w4g32-gptq"):
            quantize(
                own,
                parse_recipe("w4g32-gptq"),
                architecture=architecture_of(own),
                out=tmp_path,
                calibration=calibration,
            )


def test_another_calibration_set_gives_other_codes(own: Path, tmp_path: Path) -> None:
    found = {}
    for seed in (1, 2):
        out = tmp_path / str(seed)
        out.mkdir()
        texts = [draw(100 * seed + index, 30) for index in range(8)]
        report = quantize(
            own, parse_recipe("w4g32-gptq"), architecture=architecture_of(own), out=out, calibration=texts
        )
        found[report.calibration_digest] = (out / "weights.safetensors").read_bytes()
    assert len(found) == 2
    assert len(set(found.values())) == 2


def change(checkpoint: Path, **tensors: torch.Tensor | None) -> None:
    state = load_file(checkpoint / "model.safetensors")
    for name, value in tensors.items():
        if value is None:
            del state[name]
        else:
            state[name] = value
    save_file(state, checkpoint / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"model.norm.weight": None}, "`model.norm.weight` of shape .64. is missing"),
        ({"model.norm.weight": torch.ones(63)}, r"`model.norm.weight` has shape \[63\]"),
        ({"model.extra.weight": torch.ones(3)}, "`model.extra.weight` is not part of LlamaForCausalLM"),
        (
            {"model.norm.weight": torch.ones(64, dtype=torch.int32)},
            "`model.norm.weight` has element type I32",
        ),
        ({"model.norm.weight": torch.full((64,), float("nan"))}, "`model.norm.weight` holds NaN"),
        ({"lm_head.weight": torch.full((300, 64), float("inf"))}, "`lm_head.weight` holds NaN or infinity"),
    ],
)
@pytest.mark.parametrize("recipe", ["fp32", "w4g32-rtn"])
def test_weights_that_do_not_fit_are_refused_by_the_tensors_name(
    tensors: dict[str, torch.Tensor | None], message: str, recipe: str, own: Path, tmp_path: Path
) -> None:
    change(own, **tensors)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(CheckpointError, match=message):
        quantize(own, parse_recipe(recipe), architecture=architecture_of(own), out=out)
    assert list(out.iterdir()) == []


def test_a_tied_output_matrix_in_the_file_must_be_the_embedding(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "checkpoint", tie_word_embeddings=True)
    embedding = load_file(checkpoint / "model.safetensors")["model.embed_tokens.weight"]
    recipe, architecture = parse_recipe("fp32"), architecture_of(checkpoint)
    change(checkpoint, **{"lm_head.weight": embedding.clone()})
    quantize(checkpoint, recipe, architecture=architecture, out=tmp_path)
    change(checkpoint, **{"lm_head.weight": embedding + 1})
    with pytest.raises(CheckpointError, match=r"`lm_head\.weight` differs"):
        quantize(checkpoint, recipe, architecture=architecture, out=tmp_path)


@pytest.mark.parametrize("damage", ["missing", "truncated", "index", "escaping index", "pickle"])
def test_files_that_cannot_be_read_are_refused(damage: str, own: Path, tmp_path: Path) -> None:
    weights = own / "model.safetensors"
    match damage:
        case "missing":
            weights.unlink()
        case "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        case "index":
            (own / "model.safetensors.index.json").write_text('{"weight_map": 3}')
        case "escaping index":
            (own / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
        case "pickle":
            weights.rename(own / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        quantize(own, parse_recipe("fp32"), architecture=architecture_of(own), out=tmp_path)
    assert "safetensors" in str(caught.value)


def test_a_weight_that_float16_cannot_hold_is_refused(own: Path, tmp_path: Path) -> None:
    change(own, **{"model.norm.weight": torch.full((64,), 1e5)})
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match=r"`model\.norm\.weight` has a value of 1e\+05"):
        quantize(own, parse_recipe("fp16"), architecture=architecture_of(own), out=out)
    assert list(out.iterdir()) == []


FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
from compilers.model.architecture import read_architecture
from compilers.quantize.variant import quantize
from registry.recipe import parse_recipe
checkpoint, out = Path(sys.argv[1]), Path(sys.argv[2])
architecture = read_architecture(json.loads((checkpoint / "config.json").read_text()), where="x")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    quantize(checkpoint, parse_recipe("fp32"), architecture=architecture, out=out)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_write_that_fails_leaves_nothing(own: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(own), str(out)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("StorageFullError"), done.stdout + done.stderr
    assert list(out.iterdir()) == []


def test_a_file_that_is_no_variant_is_refused(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"garbage")
    with pytest.raises(CorruptError, match=r"weights\.safetensors"):
        dequantized_state(tmp_path / "weights.safetensors", parse_recipe("fp32"))


def test_a_writer_checks_what_it_is_given(tmp_path: Path) -> None:
    layout = arrange({"a": ("F32", (2, 3)), "b": ("U8", (4,))})
    path = tmp_path / "weights.safetensors"
    with pytest.raises(BuildError, match="`a` is float64"), write_weights(path, layout) as writer:
        writer.put("a", np.zeros((2, 3)))
    with pytest.raises(BuildError, match="`b` was not written"), write_weights(path, layout) as writer:
        writer.put("a", np.zeros((2, 3), np.float32))
    assert list(tmp_path.iterdir()) == []
