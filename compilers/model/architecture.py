"""The architecture of a checkpoint: its config.json, read into everything that graphs and kernels must know.

The first step of export. Four architectures of one decoder-only shape are known; they differ in biases, norms
on queries and keys, head sizes and sliding windows. Everything else is refused by name, so that no checkpoint
is exported as something that it is not. Defaults of absent keys are those of transformers 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compilers.model.generation_config import read_ends
from compilers.model.rope import read_rope
from registry.artifact import ModelFacts
from registry.errors import CheckpointError, UnknownNameError
from registry.value import Value
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX

Shape = tuple[int, ...]

KINDS = ("full_attention", "sliding_attention")
MAX_LAYERS = 10_000
"""Sanity bound, so that a damaged number does not fill the memory."""


@dataclass(frozen=True, slots=True)
class _Defaults:
    """What transformers assumes where config.json says nothing."""

    model_type: str
    vocab_size: int
    intermediate_size: int
    kv_heads: int | None
    max_context: int
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    head_size: int | None = None
    qkv_bias: bool = False
    has_bias_keys: bool = False
    qk_norm: bool = False


KNOWN: Mapping[str, _Defaults] = {
    "LlamaForCausalLM": _Defaults(
        "llama", 32000, 11008, None, 2048, bos_token_id=1, eos_token_id=2, has_bias_keys=True
    ),
    "MistralForCausalLM": _Defaults("mistral", 32000, 14336, 8, 4096 * 32, bos_token_id=1, eos_token_id=2),
    "Qwen2ForCausalLM": _Defaults("qwen2", 151936, 22016, 32, 32768, qkv_bias=True),
    "Qwen3ForCausalLM": _Defaults(
        "qwen3", 151936, 22016, 32, 32768, head_size=128, has_bias_keys=True, qk_norm=True
    ),
}


class Architecture(Value):
    """A decoder-only transformer: RMS norms, rotary positions, a SiLU-gated MLP."""

    name: str
    """`LlamaForCausalLM` …"""
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    windows: tuple[int | None, ...]
    """Per layer: keys that a query sees, itself included; None: all."""
    rms_eps: float
    max_context: int
    """Positions, in tokens."""
    tie_embeddings: bool
    """Whether the output matrix is the embedding."""
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    qk_norm: bool
    """Whether queries and keys are normalised per head."""
    inv_freq: tuple[float, ...]
    """Rotary frequencies, radians per position, head_size / 2 of them."""
    rope_scale: float
    """Factor on cos and sin."""
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]

    @property
    def layers(self) -> int:
        """Number of decoder layers."""
        return len(self.windows)

    @property
    def largest_window(self) -> int | None:
        """The most keys that a query of a layer with a window sees; None: no layer has one."""
        return max((window for window in self.windows if window is not None), default=None)

    @property
    def lm_head(self) -> str:
        """Name of the tensor that makes logits."""
        return EMBEDDING if self.tie_embeddings else OUTPUT_MATRIX


def read_architecture(config: Mapping[str, Any], *, where: str) -> Architecture:  # Any: parsed JSON
    """The architecture that a parsed config.json describes.

    Args:
        config: The document.
        where: What to name in errors: a path or a checkpoint.

    Raises:
        CheckpointError: A key is missing or of a wrong kind, or asks for something that is not supported.
    """
    keys = _Keys(config, where)
    name = _read_name(keys)
    known = KNOWN[name]
    if (model_type := config.get("model_type", known.model_type)) != known.model_type:
        raise CheckpointError(
            f"{where}: `architectures` is {name}, and `model_type` is {model_type!r}, "
            f"not `{known.model_type}`",
            hint="transformers goes by `model_type`: take config.json from the checkpoint's publisher",
        )
    _refuse_unsupported(keys)
    hidden = keys.size("hidden_size", 4096)
    heads = keys.size("num_attention_heads", 32)
    head_size = _read_head_size(keys, known, hidden=hidden, heads=heads)
    kv_heads = keys.size("num_key_value_heads", known.kv_heads or heads, null=heads)
    if heads % kv_heads:
        raise keys.wrong("num_key_value_heads", kv_heads, f"does not divide `num_attention_heads` ({heads})")
    max_context = keys.size("max_position_embeddings", known.max_context)
    rope = read_rope(config, head_size=head_size, max_context=max_context, where=where)
    bias = known.has_bias_keys and keys.flag("attention_bias", default=False)
    return Architecture(
        name=name,
        vocab_size=keys.size("vocab_size", known.vocab_size),
        hidden_size=hidden,
        intermediate_size=keys.size("intermediate_size", known.intermediate_size),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        windows=_read_windows(keys, name, max_context=max_context),
        rms_eps=keys.number("rms_norm_eps", 1e-6),
        max_context=max_context,
        tie_embeddings=keys.flag("tie_word_embeddings", default=False),
        qkv_bias=known.qkv_bias or bias,
        o_bias=bias,
        mlp_bias=name == "LlamaForCausalLM" and keys.flag("mlp_bias", default=False),
        qk_norm=known.qk_norm,
        inv_freq=rope.inv_freq,
        rope_scale=rope.scale,
        bos_token_id=keys.token_ids("bos_token_id", known.bos_token_id)[0],
        eos_token_ids=tuple(i for i in keys.token_ids("eos_token_id", known.eos_token_id) if i is not None),
    )


def expected_tensors(architecture: Architecture) -> dict[str, Shape]:
    """Names and shapes of a checkpoint's tensors in the order of execution, without a tied output matrix."""
    a = architecture
    q, kv = a.heads * a.head_size, a.kv_heads * a.head_size
    shapes: dict[str, Shape] = {EMBEDDING: (a.vocab_size, a.hidden_size)}
    for layer in range(a.layers):
        at = f"model.layers.{layer}"
        shapes[f"{at}.input_layernorm.weight"] = (a.hidden_size,)
        for part, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"{at}.self_attn.{part}_proj.weight"] = (rows, a.hidden_size)
            if a.qkv_bias:
                shapes[f"{at}.self_attn.{part}_proj.bias"] = (rows,)
        if a.qk_norm:
            shapes[f"{at}.self_attn.q_norm.weight"] = (a.head_size,)
            shapes[f"{at}.self_attn.k_norm.weight"] = (a.head_size,)
        shapes[f"{at}.self_attn.o_proj.weight"] = (a.hidden_size, q)
        if a.o_bias:
            shapes[f"{at}.self_attn.o_proj.bias"] = (a.hidden_size,)
        shapes[f"{at}.post_attention_layernorm.weight"] = (a.hidden_size,)
        for part, shape in (
            ("gate", (a.intermediate_size, a.hidden_size)),
            ("up", (a.intermediate_size, a.hidden_size)),
            ("down", (a.hidden_size, a.intermediate_size)),
        ):
            shapes[f"{at}.mlp.{part}_proj.weight"] = shape
            if a.mlp_bias:
                shapes[f"{at}.mlp.{part}_proj.bias"] = shape[:1]
    shapes["model.norm.weight"] = (a.hidden_size,)
    if not a.tie_embeddings:
        shapes[OUTPUT_MATRIX] = (a.vocab_size, a.hidden_size)
    return shapes


def matrix_shapes(architecture: Architecture) -> dict[str, Shape]:
    """The matrices, [out, in], that a recipe may quantize: embedding, projections and output matrix."""
    return {name: shape for name, shape in expected_tensors(architecture).items() if len(shape) == 2}


def parameters(architecture: Architecture) -> int:
    """Number of parameters; tied weights count once."""
    return sum(math.prod(shape) for shape in expected_tensors(architecture).values())


def model_facts(architecture: Architecture, *, add_bos: bool, directory: Path | None = None) -> ModelFacts:
    """What a runtime and a server must know.

    Args:
        architecture: The architecture.
        add_bos: Whether BOS is put before a prompt.
        directory: The checkpoint's, for what its generation_config.json says of the ends of texts; None:
            there is none.

    Raises:
        CheckpointError: generation_config.json cannot be read.
    """
    a = architecture
    windows = set(a.windows)
    ends = a.eos_token_ids if directory is None else read_ends(directory, otherwise=a.eos_token_ids)
    return ModelFacts(
        architecture=a.name,
        vocab_size=a.vocab_size,
        hidden_size=a.hidden_size,
        layers=a.layers,
        heads=a.heads,
        kv_heads=a.kv_heads,
        head_size=a.head_size,
        max_context=a.max_context,
        sliding_window=a.windows[0] if len(windows) == 1 else None,
        bos_token_id=a.bos_token_id,
        eos_token_ids=ends,
        add_bos=add_bos,
    )


@dataclass(frozen=True, slots=True)
class _Keys:
    """Typed look-ups in a configuration."""

    config: Mapping[str, Any]  # Any: parsed JSON
    where: str

    def wrong(self, key: str, value: object, why: str) -> CheckpointError:
        return CheckpointError(
            f"{self.where}: `{key}` is {value!r}, which {why}",
            hint="compare config.json with the one that the checkpoint's publisher gives",
        )

    def size(self, key: str, default: int, null: int | None = None) -> int:
        value = self.config.get(key, default)
        if value is None and null is not None:
            value = null
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            raise self.wrong(key, value, "is not a positive whole number")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not (0 < value < math.inf):
            raise self.wrong(key, value, "is not a positive number")
        return float(value)

    def flag(self, key: str, *, default: bool) -> bool:
        value = self.config.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, value, "is neither true nor false")
        return value

    def token_ids(self, key: str, default: int | None) -> tuple[int | None, ...]:
        value = self.config.get(key, default)
        ids = tuple(value) if isinstance(value, list) and value else (value,)
        if any(isinstance(i, bool) or not (i is None or (isinstance(i, int) and i >= 0)) for i in ids):
            raise self.wrong(key, value, "is neither a token id nor a list of them")
        return ids


def _read_name(keys: _Keys) -> str:
    names = keys.config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            f"{keys.where}: `architectures` is {names!r}, it names no architecture",
            hint='config.json must have a line such as "architectures": ["LlamaForCausalLM"]',
        )
    if names[0] not in KNOWN:
        unknown = UnknownNameError.of("architecture", names[0], known=KNOWN, where=keys.where)
        raise CheckpointError(
            f"{keys.where}: `architectures` is `{names[0]}`, which is not supported", hint=unknown.hint
        )
    return names[0]


def _refuse_unsupported(keys: _Keys) -> None:
    act = keys.config.get("hidden_act", "silu")
    if act not in ("silu", "swish"):
        raise CheckpointError(
            f"{keys.where}: `hidden_act` is {act!r}, which is not supported", hint="only `silu` is supported"
        )
    if keys.config.get("quantization_config") is not None:
        method = keys.config["quantization_config"]
        method = method.get("quant_method", method) if isinstance(method, Mapping) else method
        raise CheckpointError(
            f"{keys.where}: `quantization_config` is {method!r}: the weights are quantized already",
            hint="give the float checkpoint; recipes quantize it",
        )


def _read_head_size(keys: _Keys, known: _Defaults, *, hidden: int, heads: int) -> int:
    given = keys.config.get("head_dim", known.head_size)
    if given is None and hidden % heads:
        raise keys.wrong(
            "hidden_size", hidden, f"`num_attention_heads` ({heads}) does not divide; `head_dim` is not given"
        )
    head_size = hidden // heads if given is None else keys.size("head_dim", given)
    if head_size % 2:
        raise keys.wrong("head_dim", head_size, "is odd: rotary positions rotate pairs")
    return head_size


def _read_windows(keys: _Keys, name: str, *, max_context: int) -> tuple[int | None, ...]:
    layers = keys.size("num_hidden_layers", 32)
    if layers > MAX_LAYERS:
        raise keys.wrong("num_hidden_layers", layers, f"is more than {MAX_LAYERS}")
    if name == "LlamaForCausalLM":
        return (None,) * layers
    if name == "MistralForCausalLM":
        kinds = keys.config.get("layer_types")
        if kinds is not None and kinds != ["sliding_attention"] * layers:
            raise keys.wrong(
                "layer_types", kinds, "is not what Mistral's layers are, all `sliding_attention`"
            )
        return (_window(keys, max_context=max_context),) * layers
    slides = keys.flag("use_sliding_window", default=False)
    window = _window(keys, max_context=max_context) if slides else None
    kinds = keys.config.get("layer_types")
    if kinds is None:
        full = keys.config.get("max_window_layers", 28)
        if isinstance(full, bool) or not isinstance(full, int) or full < 0:
            raise keys.wrong("max_window_layers", full, "is not a number of layers")
        return tuple(window if layer >= full else None for layer in range(layers))
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or any(kind not in ("full_attention", "sliding_attention") for kind in kinds)
    ):
        raise keys.wrong(
            "layer_types", kinds, f"is not a list of {layers} × `full_attention` or `sliding_attention`"
        )
    if "sliding_attention" in kinds and not slides:
        raise keys.wrong("layer_types", "sliding_attention", "needs `use_sliding_window` to be true")
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


def _window(keys: _Keys, *, max_context: int) -> int | None:
    """The window, or None where no context is long enough to notice it."""
    if keys.config.get("sliding_window", 4096) is None:
        return None
    window = keys.size("sliding_window", 4096)
    return window if window < max_context else None
