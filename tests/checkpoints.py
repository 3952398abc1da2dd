"""Random-weight checkpoints in the Hugging Face layout, made by transformers itself, with a byte tokenizer.

They stand in for checkpoints that the project has never seen. Equal arguments give equal bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

TINY: dict[str, Any] = {
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "tie_word_embeddings": False,
}
"""A shape that every step handles in well under a second."""


def make_checkpoint(
    directory: Path,
    *,
    architecture: str = "LlamaForCausalLM",
    seed: int = 0,
    dtype: str = "float32",
    spread: float = 1.0,
    max_shard_size: str = "5GB",
    tokenizer: bool = True,
    **config: Any,
) -> Path:
    """Write a checkpoint of random weights into `directory` and return it.

    Args:
        directory: Made if missing.
        architecture: Class name in transformers.
        seed: Of the weights.
        dtype: Element type of the stored weights.
        spread: Factor on the matrices' usual deviation of 1/√inputs; larger ones give more peaked logits.
        max_shard_size: As transformers takes it; small values give several files and an index.
        tokenizer: Whether to add the byte tokenizer (the vocabulary must then hold 259 tokens or more).
        **config: Keys of config.json over `TINY`.
    """
    import torch
    import transformers

    directory.mkdir(parents=True, exist_ok=True)
    model_class = getattr(transformers, architecture)
    settings = model_class.config_class(**{**TINY, **config})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = model_class(settings)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2:
                    torch.nn.init.normal_(parameter, std=spread * parameter.shape[1] ** -0.5)
                elif parameter.ndim == 1:  # norms near one, biases near zero: both must matter
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.to(getattr(torch, dtype)).save_pretrained(directory, max_shard_size=max_shard_size)
    if tokenizer:
        write_byte_tokenizer(directory)
    return directory


def write_byte_tokenizer(directory: Path) -> None:
    """Write a tokenizer whose tokens are BOS, EOS, PAD and the 256 bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([BOS, EOS, PAD, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=TINY["max_position_embeddings"],
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(directory)
