"""Constants of the graph and weights in float: differences from transformers are found that logits hide."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from compilers.check.constants import check_graph, check_weights
from compilers.export.graph import export_graph
from compilers.model.architecture import read_architecture
from compilers.model.network import Network, read_network
from compilers.model.torch_reference import TorchSession
from compilers.quantize.variant import quantize
from registry.errors import BuildError
from registry.recipe import parse_recipe
from tests.compilers.session_contract import draw

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "llama, tied, every bias, llama3 rope": {
        "architecture": "LlamaForCausalLM",
        "tie_word_embeddings": True,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
        },
    },
    "qwen2 with a window of 20 on one layer": {
        "architecture": "Qwen2ForCausalLM", "use_sliding_window": True, "sliding_window": 20,
        "max_window_layers": 1,
    },
    "qwen3": {"architecture": "Qwen3ForCausalLM", "head_dim": 24},
    "mistral with a window": {"architecture": "MistralForCausalLM", "sliding_window": 32},
    "yarn": {
        "architecture": "LlamaForCausalLM",
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 32,
        },
    },
}  # fmt: skip


@pytest.fixture(params=SHAPES)
def checkpoint(request: pytest.FixtureRequest, checkpoint_of: Callable[..., Path]) -> Path:
    return checkpoint_of(**SHAPES[request.param])


def network_of(checkpoint: Path, out: Path, **config: object) -> Network:
    """The graph of a checkpoint whose config.json has other values."""
    found = json.loads((checkpoint / "config.json").read_text()) | config
    out.mkdir(exist_ok=True)
    return read_network(export_graph(read_architecture(found, where="config.json"), out=out))


def weights_of(checkpoint: Path, out: Path, recipe: str) -> Path:
    out.mkdir()
    config = json.loads((checkpoint / "config.json").read_text())
    quantize(
        checkpoint, parse_recipe(recipe), architecture=read_architecture(config, where="config.json"),
        out=out, calibration=[draw(seed, 30) for seed in range(4)],
    )  # fmt: skip
    return out / "weights.safetensors"


def test_what_is_exported_of_a_checkpoint_has_its_constants(checkpoint: Path, tmp_path: Path) -> None:
    session = TorchSession(checkpoint)
    check_graph(network_of(checkpoint, tmp_path / "graph"), session)
    for recipe in ("fp32", "fp16", "w8a8-dynamic", "w4g32-rtn", "w8a16"):
        check_weights(weights_of(checkpoint, tmp_path / recipe, recipe), session)


def test_a_frequency_off_by_a_millionth_is_found(checkpoint_of: Callable[..., Path], tmp_path: Path) -> None:
    checkpoint = checkpoint_of(**SHAPES["llama"])
    rope = {"rope_type": "default", "rope_theta": 1e4 * 1.000001}
    network = network_of(checkpoint, tmp_path, rope_parameters=rope)
    with pytest.raises(BuildError, match="rotary frequencies"):
        check_graph(network, TorchSession(checkpoint))


def test_an_epsilon_off_by_a_millionth_is_found_by_name(checkpoint: Path, tmp_path: Path) -> None:
    network, session = network_of(checkpoint, tmp_path), TorchSession(checkpoint)
    last = network.layers[-1]
    norm = replace(last.post_norm, epsilon=last.post_norm.epsilon * 1.000001)
    wrong = replace(network, layers=(*network.layers[:-1], replace(last, post_norm=norm)))
    with pytest.raises(BuildError, match=rf"epsilon of `model\.layers\.{len(network.layers) - 1}\.post_att"):
        check_graph(wrong, session)


@pytest.mark.parametrize("change", [-1, 1, None])
def test_another_window_of_one_layer_is_found(
    change: int | None, checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(**SHAPES["qwen2 with a window of 20 on one layer"])
    network = network_of(checkpoint, tmp_path)
    last = network.layers[-1]
    assert last.window == 20
    other = replace(last, window=None if change is None else 20 + change)
    wrong = replace(network, layers=(*network.layers[:-1], other))
    with pytest.raises(BuildError, match=rf"layer {len(network.layers)}: its window"):
        check_graph(wrong, TorchSession(checkpoint))


def test_a_lost_bias_a_lost_layer_and_another_factor_are_found(
    checkpoint_of: Callable[..., Path], tmp_path: Path
) -> None:
    checkpoint = checkpoint_of(**SHAPES["llama, tied, every bias, llama3 rope"])
    network, session = network_of(checkpoint, tmp_path), TorchSession(checkpoint)
    first, *others = network.layers
    unbiased = replace(network, layers=(replace(first, down=replace(first.down, bias=None)), *others))
    for wrong, message in (
        (unbiased, r"layers\.0\.mlp\.down_proj\.weight` has no bias"),
        (replace(network, layers=network.layers[:-1]), "layers, and transformers"),
        (replace(network, rope_scale=1.000001), "factor on rotary positions"),
    ):
        with pytest.raises(BuildError, match=message):
            check_graph(wrong, session)


@pytest.mark.parametrize("recipe", ["fp32", "fp16", "w4g32-rtn"])
def test_a_weight_that_is_off_by_one_bit_is_found_by_name(
    recipe: str, checkpoint: Path, tmp_path: Path
) -> None:
    path = weights_of(checkpoint, tmp_path / "out", recipe)
    state = load_file(path)
    norm = "model.layers.1.input_layernorm.weight"
    state[norm][3] = np.nextafter(state[norm][3], state[norm].dtype.type(9))
    save_file(state, path)
    with pytest.raises(BuildError, match=r"`model\.layers\.1\.input_layernorm\.weight` has other values"):
        check_weights(path, TorchSession(checkpoint))
