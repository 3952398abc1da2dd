"""A model's facts, for questions that read no file."""

from __future__ import annotations

from registry.artifact import ModelFacts

FACTS = ModelFacts(
    architecture="LlamaForCausalLM", vocab_size=300, hidden_size=64, layers=2, heads=4, kv_heads=2,
    head_size=16, max_context=128, add_bos=False,
)  # fmt: skip
