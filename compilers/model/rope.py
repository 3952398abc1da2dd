"""Rotary position embeddings: from a configuration's words to explicit inverse frequencies.

Every scaling that does not depend on the sequence's length is a set of frequencies and one factor on cos and
sin, so that graphs and kernels need to know no scaling by name. Rules as in transformers'
`modeling_rope_utils.py`
(https://github.com/huggingface/transformers/blob/main/src/transformers/modeling_rope_utils.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from registry.errors import CheckpointError

DEFAULT_THETA = 10_000.0
SCALINGS = ("default", "linear", "llama3", "yarn")

Frequencies = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Rope:
    """Frequencies of a head's dimension pairs."""

    inv_freq: tuple[float, ...]
    """Radians per position, float32 values, head_size / 2 of them."""
    scale: float
    """Factor on cos and sin (YaRN's attention factor; otherwise 1)."""


@dataclass(frozen=True, slots=True)
class _Words:
    """The rope parameters of a configuration, wherever it keeps them."""

    values: Mapping[str, Any]  # Any: parsed JSON
    where: str

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(
                f"{self.where}: rope parameter `{key}` is missing for `{self.kind}`",
                hint="take config.json from the checkpoint's publisher",
            )
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not math.isfinite(value)
            or value <= 0
        ):
            raise CheckpointError(
                f"{self.where}: rope parameter `{key}` is {value!r}, not a positive number",
                hint="take config.json from the checkpoint's publisher",
            )
        return float(value)

    @property
    def kind(self) -> str:
        return str(self.values.get("rope_type") or self.values.get("type") or "default")


def read_rope(config: Mapping[str, Any], *, head_size: int, max_context: int, where: str) -> Rope:
    """The rotary embedding of a configuration of transformers 4 (`rope_theta`, `rope_scaling`) or 5.

    Args:
        config: Parsed config.json.
        head_size: Elements per attention head.
        max_context: `max_position_embeddings`, the default of the length before scaling.
        where: What to name in errors.

    Raises:
        CheckpointError: An unknown scaling, or a parameter of it that is missing or no positive number.
    """
    words = _read_words(config, max_context=max_context, where=where)
    if (partial := words.number("partial_rotary_factor", 1.0)) != 1.0:
        raise CheckpointError(
            f"{where}: `partial_rotary_factor` is {partial:g}; heads that rotate in part are unsupported",
            hint="only checkpoints that rotate whole heads can be exported",
        )
    match words.kind:
        case "default":
            return _rope(_plain(words, head_size))
        case "linear":
            return _rope(_plain(words, head_size) / np.float32(words.number("factor")))
        case "llama3":
            return _rope(_llama3(_plain(words, head_size), words))
        case "yarn":
            return _yarn(words, head_size=head_size, max_context=max_context)
        case other:
            raise CheckpointError(
                f"{where}: `rope_type` is `{other}`, a position scaling that is not supported",
                hint="supported are " + ", ".join(f"`{name}`" for name in SCALINGS),
            )


def _read_words(config: Mapping[str, Any], *, max_context: int, where: str) -> _Words:
    found = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(found, Mapping) or any(isinstance(value, Mapping) for value in found.values()):
        raise CheckpointError(
            f"{where}: rope parameters are {found!r}, not one table of numbers",
            hint="parameters that differ by layer type are not supported",
        )
    values = dict(found)
    for key, default in (("rope_theta", DEFAULT_THETA), ("partial_rotary_factor", 1.0)):
        if values.get(key) is None:
            values[key] = config[key] if config.get(key) is not None else default
    outside = config.get("original_max_position_embeddings")
    if outside is not None:
        values["original_max_position_embeddings"] = outside
    elif values.get("original_max_position_embeddings") is None:
        values["original_max_position_embeddings"] = max_context
    return _Words(values, where)


def _rope(frequencies: Frequencies, scale: float = 1.0) -> Rope:
    return Rope(inv_freq=tuple(float(value) for value in frequencies.astype(np.float32)), scale=scale)


def _periods(words: _Words, head_size: int) -> Frequencies:
    steps = np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size)
    # float64 rounded once agrees with torch's float32 power; numpy's own float32 power is an ulp off in
    # places, which a position of some thousands turns into 1e-4 of an angle.
    return np.power(np.float64(words.number("rope_theta")), steps.astype(np.float64)).astype(np.float32)


def _plain(words: _Words, head_size: int) -> Frequencies:
    return np.float32(1) / _periods(words, head_size)


def _llama3(frequencies: Frequencies, words: _Words) -> Frequencies:
    factor = np.float32(words.number("factor"))
    low, high = words.number("low_freq_factor"), words.number("high_freq_factor")
    if low == high:
        raise CheckpointError(
            f"{words.where}: rope parameters `low_freq_factor` and `high_freq_factor` are both {low:g}",
            hint="take config.json from the checkpoint's publisher",
        )
    context = words.number("original_max_position_embeddings")
    wavelengths = np.float32(2 * math.pi) / frequencies
    long = wavelengths > context / low
    short = wavelengths < context / high
    scaled = np.where(long, frequencies / factor, frequencies)
    smooth = (np.float32(context) / wavelengths - np.float32(low)) / np.float32(high - low)
    between = (np.float32(1) - smooth) * scaled / factor + smooth * scaled
    return np.where(~short & ~long, between, scaled).astype(np.float32)


def _yarn(words: _Words, *, head_size: int, max_context: int) -> Rope:
    """YaRN (https://arxiv.org/abs/2309.00071)."""
    theta = words.number("rope_theta")
    context = words.number("original_max_position_embeddings")
    factor = words.number("factor", max_context / context)

    def dimension(rotations: float) -> float:
        return head_size * math.log(context / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(words.number("beta_fast", 32.0)), dimension(words.number("beta_slow", 1.0))
    if words.values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_size - 1)
    if low == high:
        high += 0.001
    ramp = np.clip(
        (np.arange(head_size // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low), 0, 1
    )
    keep = np.float32(1) - ramp
    periods = _periods(words, head_size)
    frequencies = (np.float32(1) / (np.float32(factor) * periods)) * (np.float32(1) - keep)
    frequencies = frequencies + (np.float32(1) / periods) * keep
    return _rope(frequencies, scale=_yarn_scale(words, factor))


def _yarn_scale(words: _Words, factor: float) -> float:
    if words.values.get("attention_factor") is not None:
        return words.number("attention_factor")

    def attention(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if words.values.get("mscale") and words.values.get("mscale_all_dim"):
        return attention(words.number("mscale")) / attention(words.number("mscale_all_dim"))
    return attention(1.0)
