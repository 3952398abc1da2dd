"""The shapes of the demo family: three Llama-like checkpoints, each about half of the one before."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from pipeline.demo.tokenizer import BOS, EOS, MAX_LENGTH, PAD, word_ids

_ROPE_THETA: Final = 100_000.0
"""High, so that half of each head turns slowly enough to match words by content."""
_CONSTANT: Final = 4.0
"""The first feature of every embedding, after normalization: what a head can point backwards with."""
_SHARPNESS: Final = 5.5
"""How sharply the first layer's heads point at one place."""
_HEAD_SCALE: Final = 0.2
"""The share of chance left in the heads that point."""
_OUTPUT_DEVIATION: Final = 0.02


@dataclass(frozen=True, slots=True)
class DemoShape:
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


SHAPES: Final[Mapping[str, DemoShape]] = MappingProxyType(
    {
        "flagship": DemoShape(4, 128, 256, 4, 2, steps=900, teacher=None),
        "mid": DemoShape(3, 96, 192, 3, 3, steps=320, teacher="flagship"),
        "small": DemoShape(2, 64, 192, 2, 2, steps=170, teacher="flagship"),
    }
)
"""The family, best first. Widths are multiples of 32, the group size of the int4 recipes.

The smaller two are stopped early on purpose, so that the tiers of a ladder differ.
"""


def build_untrained(shape: DemoShape, *, seed: int) -> LlamaForCausalLM:
    """Return a checkpoint's network before its first step.

    Looking something up in the context forms late or never at this size, unless

    - the projections that write into the residual stream start at zero;
    - embeddings are as large as what is added to them, hence apart from the output layer;
    - the heads of the first layer point at the words one, two, three … places before.
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
            tie_word_embeddings=False,
            bos_token_id=ids[BOS],
            eos_token_id=ids[EOS],
            pad_token_id=ids[PAD],
            dtype="float32",
        )
    )
    network.generation_config = GenerationConfig(
        bos_token_id=ids[BOS], eos_token_id=ids[EOS], pad_token_id=ids[PAD], do_sample=False
    )
    _initialize(network, width=shape.width)
    _point_backwards(network, shape)
    return network


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def _initialize(network: LlamaForCausalLM, *, width: int) -> None:
    torch.nn.init.normal_(network.model.embed_tokens.weight, std=1.0)
    torch.nn.init.normal_(network.lm_head.weight, std=_OUTPUT_DEVIATION)
    for layer in network.model.layers:
        for name, weight in layer.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                torch.nn.init.zeros_(weight)
            elif weight.ndim > 1:
                torch.nn.init.normal_(weight, std=width**-0.5)


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
def _point_backwards(network: LlamaForCausalLM, shape: DemoShape) -> None:
    """Let head h of the first layer attend to the word h + 1 places before.

    With rotary embeddings, a constant query turned by -δθ in every plane has its highest product with a
    constant key δ places before. A constant feature in all embeddings carries both.
    """
    constant = (_CONSTANT**2 * (shape.width - 1) / (shape.width - _CONSTANT**2)) ** 0.5
    network.model.embed_tokens.weight[:, 0] = constant
    size = shape.width // shape.heads
    planes = size // 2
    turns = _ROPE_THETA ** (-torch.arange(planes) / planes)
    attention = network.model.layers[0].self_attn
    queries, keys = attention.q_proj.weight.mul_(_HEAD_SCALE), attention.k_proj.weight.mul_(_HEAD_SCALE)
    strength = _SHARPNESS / _CONSTANT
    for head in range(shape.heads):
        angles = (head + 1) * turns
        queries[head * size : (head + 1) * size, 0] = strength * torch.cat([angles.cos(), -angles.sin()])
    for head in range(shape.shared_heads):
        still = torch.cat([torch.ones(planes), torch.zeros(planes)])
        keys[head * size : (head + 1) * size, 0] = strength * still
