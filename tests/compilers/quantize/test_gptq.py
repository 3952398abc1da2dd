"""GPTQ of whole checkpoints: resumed after a kill, the same on any number of threads, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from compilers.check.probe import reference_logits
from compilers.model.architecture import read_architecture
from compilers.model.torch_reference import TorchSession
from compilers.quantize.canonical import dequantized_state
from compilers.quantize.gptq import DAMPING, gptq_matrix, inverse_factor
from compilers.quantize.variant import quantize
from registry.errors import BuildError, CheckpointError, RungError
from registry.recipe import parse_recipe
from registry.weight_form import CodedWeights
from tests.checkpoints import make_checkpoint
from tests.compilers.session_contract import draw

RECIPE = parse_recipe("w4g32-gptq")
TEXTS = [draw(seed, 12 + seed) for seed in range(12)]
LAYERS = 4

KILLED = """
import json, os, signal, sys
from pathlib import Path
from compilers.model.architecture import read_architecture
from compilers.quantize.variant import quantize
from registry.recipe import parse_recipe

checkpoint, out, saved, texts = map(Path, sys.argv[1:5])

def stop(text):
    if text.startswith("GPTQ: layer 3 of"):
        os.kill(os.getpid(), signal.SIGKILL)

quantize(
    checkpoint, parse_recipe("w4g32-gptq"), out=out, saved=saved, progress=stop,
    architecture=read_architecture(json.loads((checkpoint / "config.json").read_text()), where="here"),
    calibration=json.loads(texts.read_text()),
)
"""


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("deep") / "checkpoint", num_hidden_layers=LAYERS)


def run(
    checkpoint: Path,
    out: Path,
    *,
    saved: Path | None = None,
    threads: int = 1,
    texts: list[list[int]] | None = None,
    recipe: str = "w4g32-gptq",
) -> tuple[bytes, list[str]]:
    """The bytes of the weights file, and what was said on the way."""
    out.mkdir(parents=True)
    said: list[str] = []
    config = json.loads((checkpoint / "config.json").read_text())
    quantize(
        checkpoint,
        parse_recipe(recipe),
        architecture=read_architecture(config, where=str(checkpoint)),
        out=out,
        calibration=TEXTS if texts is None else texts,
        saved=saved,
        threads=threads,
        progress=said.append,
    )
    return (out / "weights.safetensors").read_bytes(), said


def planted(checkpoint: Path, out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    shutil.copytree(checkpoint, out)
    state = load_file(out / "model.safetensors")
    change(state)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_one_that_was_killed_goes_on_at_its_layer_and_gives_the_same_bytes(
    deep: Path, tmp_path: Path
) -> None:
    whole, said = run(deep, tmp_path / "whole")
    assert [text.split(",")[0] for text in said[:LAYERS]] == [
        f"GPTQ: layer {n} of {LAYERS}" for n in range(1, LAYERS + 1)
    ]
    assert "s left" in said[-1]
    saved = tmp_path / "saved"
    saved.mkdir()
    (tmp_path / "killed").mkdir()
    (tmp_path / "texts.json").write_text(json.dumps([list(text) for text in TEXTS]))
    arguments = [deep, tmp_path / "killed", saved, tmp_path / "texts.json"]
    died = subprocess.run([sys.executable, "-c", KILLED, *map(str, arguments)], env=os.environ, check=False)
    assert died.returncode == -signal.SIGKILL
    assert sorted(path.name for path in saved.iterdir()) == ["layer-0000", "layer-0001"]
    resumed, said = run(deep, tmp_path / "resumed", saved=saved)
    assert resumed == whole
    assert ["finished before" in text for text in said] == [True, True, False, False, False]


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:200] + b"?" + data[201:]]
)
def test_a_saved_layer_that_is_damaged_is_computed_again(
    damage: Callable[[bytes], bytes], deep: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    whole, _ = run(deep, tmp_path / "whole", saved=saved)
    layer = saved / "layer-0001"
    layer.write_bytes(damage(layer.read_bytes()))
    again, said = run(deep, tmp_path / "again", saved=saved)
    assert again == whole
    assert ["finished before" in text for text in said] == [True, False, True, True, False]


def test_layers_that_were_saved_for_other_texts_or_another_recipe_are_not_used(
    deep: Path, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    saved.mkdir()
    run(deep, tmp_path / "first", saved=saved)
    other = [draw(100 + seed, 20) for seed in range(4)]
    for name, kind in {"texts": {"texts": other}, "recipe": {"recipe": "w4g64-gptq"}}.items():
        fresh, _ = run(deep, tmp_path / f"{name}-fresh", **kind)  # type: ignore[arg-type]  # of `run`
        found, said = run(deep, tmp_path / name, saved=saved, **kind)  # type: ignore[arg-type]  # likewise
        assert found == fresh
        assert not any("finished before" in text for text in said)


def test_the_codes_do_not_depend_on_the_number_of_threads(deep: Path, tmp_path: Path) -> None:
    found = {run(deep, tmp_path / str(threads), threads=threads)[0] for threads in (1, 2, 5)}
    assert len(found) == 1


def test_activations_that_overflow_end_with_the_name_of_the_matrix(deep: Path, tmp_path: Path) -> None:
    def overflow(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.1.mlp.up_proj.weight"] *= 1e30
        state["model.layers.1.mlp.gate_proj.weight"] *= 1e20

    with pytest.raises(BuildError, match=r"model\.layers\.1\.mlp\.down_proj.* not finite") as refused:
        run(planted(deep, tmp_path / "checkpoint", overflow), tmp_path / "out")
    assert isinstance(refused.value, RungError)


def test_a_hidden_state_that_overflows_ends_with_the_name_of_the_layer(deep: Path, tmp_path: Path) -> None:
    def overflow(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.2.mlp.down_proj.weight"] *= 1e30
        state["model.layers.2.mlp.up_proj.weight"] *= 1e12

    with pytest.raises(BuildError, match=r"out of `model\.layers\.2` are not finite"):
        run(planted(deep, tmp_path / "checkpoint", overflow), tmp_path / "out")


def test_attention_that_overflows_is_refused_by_name(deep: Path, tmp_path: Path) -> None:
    def overflow(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.0.self_attn.q_proj.weight"] *= 1e22
        state["model.layers.0.self_attn.k_proj.weight"] *= 1e22

    with pytest.raises(BuildError, match=r"model\.layers\.0\.self_attn\.o_proj.* not finite"):
        run(planted(deep, tmp_path / "checkpoint", overflow), tmp_path / "out")


@pytest.mark.parametrize("name", ["model.layers.3.self_attn.k_proj.weight", "lm_head.weight"])
def test_a_weight_that_is_no_number_is_refused_by_name(name: str, deep: Path, tmp_path: Path) -> None:
    def spoil(state: dict[str, torch.Tensor]) -> None:
        state[name][1, 2] = float("nan")

    # An activation that comes of it may be met first, in the layer of the weight.
    with pytest.raises((CheckpointError, BuildError), match=name.rsplit(".", 2)[0]):
        run(planted(deep, tmp_path / "checkpoint", spoil), tmp_path / "out")


def test_large_finite_activations_and_dead_inputs_are_quantized(deep: Path, tmp_path: Path) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        state["model.layers.0.mlp.up_proj.weight"] *= 1e22  # its square is more than float32 holds
        state["model.layers.0.mlp.down_proj.weight"] *= 1e-22
        state["model.layers.1.mlp.up_proj.weight"][:] = 0
        state["model.layers.2.input_layernorm.weight"][5] = 0

    checkpoint = planted(deep, tmp_path / "checkpoint", change)
    run(checkpoint, tmp_path / "out")
    weights = dequantized_state(tmp_path / "out" / "weights.safetensors", RECIPE)
    tokens = draw(77, 20)
    found = torch.from_numpy(reference_logits(TorchSession(checkpoint, weights=weights), [tokens]))
    want = torch.from_numpy(reference_logits(TorchSession(checkpoint), [tokens]))
    assert torch.isfinite(found).all()
    assert torch.nn.functional.cosine_similarity(found, want).mean() > 0.9


@pytest.mark.parametrize("columns", [32, 96, 160, 288])
@pytest.mark.parametrize("group", [32, None])
def test_blocked_updates_give_the_codes_of_the_formula(columns: int, group: int | None) -> None:
    """Against GPTQ as the paper has it: one column at a time, in float64, with the inverse itself."""
    form = CodedWeights(4, group)
    generator = torch.Generator().manual_seed(columns)
    weight = torch.randn(24, columns, generator=generator)
    inputs = torch.randn(500, columns, generator=generator) @ torch.randn(
        columns, columns, generator=generator
    )
    hessian = (inputs.T @ inputs).double()
    found = gptq_matrix(weight, hessian, form)
    damped = hessian + torch.eye(columns).double() * (DAMPING * hessian.diagonal().mean())
    inverse = torch.linalg.inv(damped)
    rest, made = weight.double(), torch.empty(24, columns, dtype=torch.float64)
    for column in range(columns):
        scale = found.scales[:, column // (group or columns)].double()
        made[:, column] = torch.round(rest[:, column] / scale).clamp(form.low, form.high) * scale
        error = (rest[:, column] - made[:, column]) / inverse[column, column]
        rest -= torch.outer(error, inverse[column])
        inverse -= torch.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    same = (found.dequantized() - made).abs() < 1e-4
    assert same.double().mean() > 0.98  # a value in the middle of two codes may go either way


def test_the_factor_is_that_of_the_inverse() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(200, 48, generator=generator, dtype=torch.float64)
    hessian = inputs.T @ inputs
    factor = inverse_factor(hessian, where="here").double()
    normal = hessian / hessian.diagonal().mean()
    wanted = torch.linalg.inv(normal + DAMPING * torch.eye(48))
    torch.testing.assert_close(factor.T @ factor, wanted, rtol=1e-4, atol=1e-6)
    assert torch.equal(factor, factor.triu())
