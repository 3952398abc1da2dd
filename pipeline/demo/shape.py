"""The shapes of the demo family: three Llama-like checkpoints, each about half of the one before."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pipeline.demo.tokenizer import BOS, EOS, MAX_LENGTH, PAD, word_ids

_ROPE_THETA: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of one checkpoint, and how long it is trained."""

    layers: int
    width: int
    inner: int
    """Width inside the feed-forward part."""
    heads: int
    shared_heads: int
    """Heads of keys and values; fewer than `heads` means grouped-query attention."""
    steps: int
    """Batches of documents after the warm-up on look-ups."""
    teacher: str | None
    """The checkpoint that this one is distilled from."""
    tags: tuple[str, ...]
    """What its model card says beside the licence."""


SHAPES: Final[Mapping[str, Shape]] = MappingProxyType(
    {
        "flagship": Shape(4, 128, 256, 4, 2, steps=1600, teacher=None, tags=()),
        "mid": Shape(3, 96, 192, 3, 3, steps=800, teacher="flagship", tags=("distilled",)),
        "small": Shape(2, 64, 192, 2, 2, steps=800, teacher="flagship", tags=("distilled",)),
    }
)
"""The family, best first. Widths are multiples of 32, the group size of the int4 recipes."""


def build_untrained(shape: Shape, *, seed: int) -> LlamaForCausalLM:
    """Return a checkpoint's network before its first step.

    The projections that write into the residual stream start at zero: without that, looking up in the context
    forms late or never at this size.
    """
    ids = word_ids()
    torch.manual_seed(seed)
    network = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(ids),
            hidden_size=shape.width,
            intermediate_size=shape.inner,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.shared_heads,
            max_position_embeddings=MAX_LENGTH,
            rope_parameters={"rope_type": "default", "rope_theta": _ROPE_THETA},
            tie_word_embeddings=True,
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
            pad_token_id=ids[PAD],
            dtype="float32",
        )
    )
    network.generation_config = GenerationConfig(
        bos_token_id=ids[BOS], eos_token_id=ids[EOS], pad_token_id=ids[PAD], do_sample=False
    )
    for layer in network.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return network
