"""Whether a checkpoint's tensors are those of its architecture: names, shapes and element types.

Held against config.json when a checkpoint is registered, before hours of work rest on it, and again before
its weights are read. transformers makes up a tensor that is missing and drops one that it does not know; here
both are refused, by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from compilers.model.architecture import Architecture, Shape, expected_tensors
from registry.errors import CheckpointError
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX

FLOATS: Final = ("F32", "F16", "BF16", "F64")
"""Element types of weights that are read, in the words of safetensors."""
_DERIVED = (".rotary_emb.inv_freq",)  # of old versions of transformers; it follows from config.json
_SAME = "config.json and the weights must be of the same checkpoint"


def check_tensors(found: Mapping[str, tuple[str, Shape]], architecture: Architecture, *, where: str) -> None:
    """Refuse tensors that are not those of an architecture. A tied output matrix may be stored or not.

    Args:
        found: Name → element type and shape.
        architecture: As config.json describes it.
        where: What to name in errors.

    Raises:
        CheckpointError: One is missing, unknown, of another shape or not of floating-point type; the hint
            says what is likely behind it.
    """
    expected = expected_tensors(architecture)
    known = {name: form for name, form in found.items() if not name.endswith(_DERIVED)}
    if architecture.tie_embeddings:
        known.pop(OUTPUT_MATRIX, None)
    missing = [name for name in expected if name not in known]
    extra = [name for name in known if name not in expected]
    if missing:
        more = f" (one of {len(missing)} such)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"`{where}`: tensor `{missing[0]}` of shape {list(expected[missing[0]])} is missing{more}",
            hint=_why_missing(missing, extra),
        )
    for name, shape in expected.items():
        dtype, has = known[name]
        if has != shape:
            raise CheckpointError(
                f"`{where}`: tensor `{name}` has shape {list(has)}, config.json says {list(shape)}",
                hint=_why_shape(name, has, shape),
            )
        if dtype not in FLOATS:
            raise CheckpointError(
                f"`{where}`: tensor `{name}` has element type {dtype}, not a floating-point one that is read "
                f"({', '.join(FLOATS)})",
                hint="register the float checkpoint that it was made of; recipes quantize it",
            )
    if extra:
        more = f" (one of {len(extra)} such)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"`{where}`: tensor `{extra[0]}` is not part of {architecture.name} as config.json describes "
            f"it{more}",
            hint=_why_extra(extra[0], architecture),
        )


def _why_missing(missing: list[str], extra: list[str]) -> str:
    if missing == [OUTPUT_MATRIX]:
        return (
            f"if the output matrix is the embedding (`{EMBEDDING}`), set `tie_word_embeddings` to true in "
            "config.json; if not, the file is incomplete: save the model again"
        )
    for name in extra:
        prefix = next((name.removesuffix(one) for one in missing if name.endswith(f".{one}")), None)
        if prefix is not None:
            return (
                f"names begin with `{prefix}`, which something around the model adds: save the model "
                "inside (`model._orig_mod`, `model.module`, `merge_and_unload()` of PEFT)"
            )
        if f"model.{name}" in missing:
            return (
                "the names lack `model.`: only the inner model was saved; load it with "
                "`AutoModelForCausalLM` and save that"
            )
    return f"the weights are incomplete, or of another checkpoint: {_SAME}"


def _why_shape(name: str, has: Shape, expected: Shape) -> str:
    if 0 in has:
        return (
            "an empty tensor is what DeepSpeed's ZeRO-3 leaves when parameters are not gathered: save with "
            "`stage3_gather_16bit_weights_on_model_save`, or run `zero_to_fp32.py`"
        )
    if name in (EMBEDDING, OUTPUT_MATRIX) and has[1:] == expected[1:]:
        return f"set `vocab_size` in config.json to the rows that there are, {has[0]}, or resize the model"
    return _SAME


def _why_extra(name: str, architecture: Architecture) -> str:
    if name.startswith(f"model.layers.{architecture.layers}."):
        return f"the weights have more layers than `num_hidden_layers` ({architecture.layers}): {_SAME}"
    if name.endswith(".bias"):
        return (
            "config.json describes no such bias (`attention_bias`, `mlp_bias`): transformers would drop it; "
            f"{_SAME}"
        )
    if ".lora_" in name:
        return "these are an adapter's weights: merge them (`merge_and_unload()` of PEFT)"
    return f"transformers would drop it: save the model again without it, or correct config.json: {_SAME}"
