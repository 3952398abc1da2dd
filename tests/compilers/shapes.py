"""Shapes of the four architectures that between them use every option that can be exported."""

from __future__ import annotations

from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"architecture": "LlamaForCausalLM"},
    "llama with every bias, full attention, tied, heads of 20": {
        "architecture": "LlamaForCausalLM",
        "attention_bias": True,
        "mlp_bias": True,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "head_dim": 20,
        "hidden_size": 60,
    },
    "llama with llama3 scaling": {
        "architecture": "LlamaForCausalLM",
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1000.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    },
    "llama with yarn": {
        "architecture": "LlamaForCausalLM",
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "llama with linear scaling": {
        "architecture": "LlamaForCausalLM",
        "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    },
    "qwen2, one key head for seven, tied": {
        "architecture": "Qwen2ForCausalLM",
        "tie_word_embeddings": True,
        "hidden_size": 56,
        "num_attention_heads": 7,
        "num_key_value_heads": 1,
    },
    "qwen2 with a window on one layer": {
        "architecture": "Qwen2ForCausalLM",
        "use_sliding_window": True,
        "sliding_window": 5,
        "max_window_layers": 1,
    },
    "qwen3, heads of 24": {"architecture": "Qwen3ForCausalLM", "head_dim": 24},
    "mistral with a window of 7, heads of 48": {
        "architecture": "MistralForCausalLM",
        "sliding_window": 7,
        "head_dim": 48,
    },
    "mistral with a window of 1, heads of 6": {
        "architecture": "MistralForCausalLM",
        "sliding_window": 1,
        "head_dim": 6,
    },
}
