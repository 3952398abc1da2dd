"""config.json read as transformers reads it, and refused by name where it cannot be exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import example, given
from hypothesis import strategies as st

from compilers.model.architecture import (
    KNOWN,
    expected_tensors,
    matrix_shapes,
    model_facts,
    parameters,
    read_architecture,
)
from registry.errors import CheckpointError
from tests.checkpoints import TINY

LLAMA: dict[str, Any] = {**TINY, "architectures": ["LlamaForCausalLM"]}


def model_of(config: dict[str, Any]) -> Any:
    """The model without weights that transformers makes of a configuration."""
    model_class = getattr(transformers, config["architectures"][0])
    given = {key: value for key, value in config.items() if key != "architectures"}
    with torch.device("meta"):
        return model_class(model_class.config_class(**given))


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"tie_word_embeddings": True},
        {"head_dim": 40},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "num_hidden_layers": 3},
    ],
    ids=json.dumps,
)
def test_names_and_shapes_of_tensors_are_those_of_transformers(name: str, changes: dict[str, Any]) -> None:
    config = {**TINY, **changes, "architectures": [name]}
    model = model_of(config)
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    if config["tie_word_embeddings"]:
        del found["lm_head.weight"]
    # transformers' own defaults of absent keys must be read in the same way
    architecture = read_architecture(config, where="config.json")
    assert expected_tensors(architecture) == found
    assert parameters(architecture) == sum(p.numel() for p in model.parameters())
    assert all(len(shape) == 2 for shape in matrix_shapes(architecture).values())


@pytest.mark.parametrize("name", KNOWN)
def test_defaults_of_absent_keys_are_those_of_transformers(name: str) -> None:
    defaults = getattr(transformers, name).config_class()
    architecture = read_architecture({"architectures": [name]}, where="config.json")
    assert architecture.vocab_size == defaults.vocab_size
    assert architecture.hidden_size == defaults.hidden_size
    assert architecture.intermediate_size == defaults.intermediate_size
    assert architecture.heads == defaults.num_attention_heads
    assert architecture.kv_heads == defaults.num_key_value_heads
    assert architecture.layers == defaults.num_hidden_layers
    assert architecture.max_context == defaults.max_position_embeddings
    assert architecture.rms_eps == defaults.rms_norm_eps
    assert architecture.tie_embeddings == defaults.tie_word_embeddings
    assert architecture.bos_token_id == defaults.bos_token_id
    ends = defaults.eos_token_id
    assert architecture.eos_token_ids == (() if ends is None else (ends,))
    expected = getattr(defaults, "head_dim", None) or defaults.hidden_size // defaults.num_attention_heads
    assert architecture.head_size == expected


ROPES: list[dict[str, Any]] = [
    {"rope_theta": 12345.0},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    {"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 3.0}},
    {
        "rope_theta": 5e5,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
    {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e6,
            "factor": 2.0,
            "original_max_position_embeddings": 64,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "mscale": 0.7,
            "mscale_all_dim": 0.9,
            "truncate": False,
        }
    },
    {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "attention_factor": 1.25,
            "original_max_position_embeddings": 32,
        }
    },
]


@pytest.mark.parametrize("rope", ROPES, ids=json.dumps)
def test_rotary_frequencies_are_those_of_transformers(rope: dict[str, Any]) -> None:
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(transformers.LlamaConfig(**{**TINY, **rope}))
    ours = read_architecture({**LLAMA, **rope}, where="config.json")
    np.testing.assert_allclose(ours.inv_freq, theirs.inv_freq.numpy(), rtol=2.5e-7)
    assert ours.rope_scale == pytest.approx(theirs.attention_scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("changes", "windows"),
    [
        ({"architectures": ["LlamaForCausalLM"], "sliding_window": 8}, (None, None)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": 8}, (8, 8)),
        ({"architectures": ["MistralForCausalLM"], "sliding_window": None}, (None, None)),
        ({"architectures": ["MistralForCausalLM"]}, (None, None)),  # 4096 by default, beyond the context
        ({"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8}, (None, None)),
        (
            {
                "architectures": ["Qwen2ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 8,
                "max_window_layers": 1,
            },
            (None, 8),
        ),
        (
            {
                "architectures": ["Qwen3ForCausalLM"],
                "use_sliding_window": True,
                "sliding_window": 8,
                "layer_types": ["sliding_attention", "full_attention"],
            },
            (8, None),
        ),
    ],
)
def test_sliding_windows_are_per_layer(changes: dict[str, Any], windows: tuple[int | None, ...]) -> None:
    architecture = read_architecture({**TINY, **changes}, where="config.json")
    assert architecture.windows == windows
    facts = model_facts(architecture, add_bos=True)
    assert facts.sliding_window == (8 if windows == (8, 8) else None)
    assert facts.add_bos


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"architectures": ["LlamaForCausaLM"]}, "LlamaForCausaLM", "did you mean `LlamaForCausalLM`"),
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel", "Qwen2ForCausalLM"),
        ({"architectures": ["LlamaForCausalLM"], "model_type": "mistral"}, "'mistral'", "model_type"),
        ({"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen2"}, "'qwen2'", "model_type"),
        ({"architectures": []}, "`architectures`", "config.json"),
        ({"architectures": None}, "`architectures`", "config.json"),
        ({"hidden_act": "gelu"}, "`hidden_act` is 'gelu'", "silu"),
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "`longrope`", "`yarn`"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "`dynamic`", "`llama3`"),
        ({"rope_scaling": {"type": "linear"}}, "`factor` is missing for `linear`", "publisher"),
        ({"rope_scaling": {"type": "linear", "factor": "four"}}, "`factor` is 'four'", "publisher"),
        ({"rope_theta": -1.0}, "`rope_theta` is -1.0", "publisher"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1.0}}}, "not one table", "layer type"),
        ({"partial_rotary_factor": 0.5}, "`partial_rotary_factor` is 0.5", "whole heads"),
        ({"quantization_config": {"quant_method": "gptq"}}, "'gptq'", "float checkpoint"),
        ({"num_key_value_heads": 3}, "`num_key_value_heads` is 3", "publisher"),
        ({"num_attention_heads": 7, "num_key_value_heads": 7}, "`hidden_size` is 64", "publisher"),
        ({"head_dim": 15}, "`head_dim` is 15", "publisher"),
        ({"head_dim": -8}, "`head_dim` is -8", "publisher"),
        ({"hidden_size": "64"}, "`hidden_size` is '64'", "publisher"),
        ({"num_hidden_layers": 10**9}, "`num_hidden_layers` is 1000000000", "publisher"),
        ({"num_hidden_layers": 0}, "`num_hidden_layers` is 0", "publisher"),
        ({"vocab_size": True}, "`vocab_size` is True", "publisher"),
        ({"rms_norm_eps": float("nan")}, "`rms_norm_eps` is nan", "publisher"),
        ({"tie_word_embeddings": "yes"}, "`tie_word_embeddings` is 'yes'", "publisher"),
        ({"eos_token_id": [1, "two"]}, "`eos_token_id`", "publisher"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["sliding_attention", "full_attention"]},
            "`use_sliding_window`",
            "publisher",
        ),
        ({"architectures": ["Qwen2ForCausalLM"], "layer_types": ["chunked"] * 2}, "chunked", "publisher"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "layer_types": ["full_attention"]},
            "list of 2",
            "publisher",
        ),
        ({"architectures": ["MistralForCausalLM"], "layer_types": ["full_attention"] * 2}, "Mistral", ""),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_exported_is_refused_by_name(changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_architecture({**LLAMA, **changes}, where="some/config.json")
    assert caught.value.message.startswith("some/config.json: ")
    assert message in caught.value.message
    assert hint in caught.value.hint


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    key=st.sampled_from([*LLAMA, "rope_scaling", "rope_parameters", "head_dim", "layer_types"]), value=JSON
)
@example(key="layer_types", value=[None, []])
def test_garbage_in_any_key_is_refused_or_read_but_never_crashes(key: str, value: Any) -> None:
    for name in KNOWN:
        config = {**LLAMA, "architectures": [name], "use_sliding_window": True, key: value}
        try:
            architecture = read_architecture(config, where="config.json")
        except CheckpointError:
            continue
        assert architecture.model_validate_json(architecture.model_dump_json()) == architecture


def test_ends_of_texts_come_from_generation_config_where_there_is_one(tmp_path: Path) -> None:
    architecture = read_architecture(LLAMA, where="config.json")
    assert model_facts(architecture, add_bos=False, directory=tmp_path).eos_token_ids == (1,)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 7]}')
    assert model_facts(architecture, add_bos=False, directory=tmp_path).eos_token_ids == (5, 7)
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        model_facts(architecture, add_bos=False, directory=tmp_path)
