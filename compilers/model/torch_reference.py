"""The reference: a checkpoint run by torch and transformers behind the same session as every artifact.

Build side only. Parity, KL divergence and reference scorecards are measured against it, with the checkpoint's
own weights or with those that a variant's codes stand for.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from compilers.model.activations import CODES, INPUT, OUTPUT, steps_of
from compilers.model.architecture import Architecture, read_architecture
from compilers.ragged_cache import RaggedCache, check_cache_size, check_segments, own_cache
from compilers.runtime import Cache, FloatArray, Segment
from registry.errors import CheckpointError

Untyped: TypeAlias = Any
"""What transformers returns: its models have no types that hold."""

CACHE_NAMES = ("cache", "past_key_values")
"""What transformers calls the KV cache among a module's arguments, the newest name first."""
CALL_TOKENS = 4096
"""Padded tokens of one forward pass; bounds the memory for activations and scores."""


def load_model(checkpoint_dir: Path) -> Untyped:
    """The checkpoint as a float32 transformers model in evaluation mode, read from this directory alone.

    Raises:
        CheckpointError: transformers cannot read it.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import transformers
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            checkpoint_dir, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(
            f"`{checkpoint_dir}` cannot be read by transformers: {error}",
            hint="it must be a checkpoint in the Hugging Face layout; take it from its source again",
        ) from error
    return model.eval()


class TorchKvMemory:
    """Keys and values, per layer two tensors [rows, kv_heads, capacity, head_size]."""

    def __init__(self, architecture: Architecture, *, rows: int, capacity: int) -> None:
        shape = (rows, architecture.kv_heads, capacity, architecture.head_size)
        self.layers = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(architecture.layers)]

    def copy_row(self, *, source: int, row: int, length: int) -> None:
        """Copy the first `length` tokens of a row to another one."""
        for keys, values in self.layers:
            keys[row, :, :length] = keys[source, :, :length]
            values[row, :, :length] = values[source, :, :length]

    def release_row(self, row: int, *, length: int) -> None:
        """The memory is allocated whole: nothing is given back."""


class TorchSession:
    """A checkpoint in torch, float32. Not safe for concurrent calls.

    Args:
        checkpoint_dir: Checkpoint in the Hugging Face layout.
        weights: State dict that replaces the checkpoint's own, such as `dequantized_state` gives. Ranges of
            static activations in it (`registry/variant.py`) make the session round to 16 bits there.

    Raises:
        CheckpointError: The checkpoint cannot be read, or the weights do not fit it.
    """

    def __init__(
        self, checkpoint_dir: Path, *, weights: Mapping[str, NDArray[np.float32]] | None = None
    ) -> None:
        config = checkpoint_dir / "config.json"
        try:
            document = json.loads(config.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"`{config}` cannot be read: {error}", hint="take the checkpoint from its source again"
            ) from error
        self.architecture = read_architecture(document, where=str(config))
        self.model = load_model(checkpoint_dir)
        """The model in transformers; what changes it for a while puts it back."""
        _check_class(self.model, self.architecture, where=str(config))
        self._checkpoint_dir = checkpoint_dir
        if weights is not None:
            self.replace_weights(weights)
        self.vocab_size = self.architecture.vocab_size
        self.max_context = self.architecture.max_context

    def replace_weights(self, weights: Mapping[str, NDArray[np.float32]]) -> None:
        """Compute with other weights from now on.

        Args:
            weights: As the constructor takes them.

        Raises:
            CheckpointError: They do not fit the checkpoint.
        """
        _replace_weights(self.model, weights, where=str(self._checkpoint_dir))

    def new_cache(self, *, rows: int, capacity: int) -> RaggedCache[TorchKvMemory]:
        """An empty cache.

        Raises:
            LoadError: More capacity than the checkpoint has positions.
        """
        check_cache_size(rows=rows, capacity=capacity, max_context=self.max_context)
        memory = TorchKvMemory(self.architecture, rows=rows, capacity=capacity)
        return RaggedCache(memory, owner=self, rows=rows, capacity=capacity)

    def forward(self, cache: Cache, segments: Sequence[Segment]) -> list[FloatArray]:
        """Append each segment to its row and return its logits, float32 [1 or tokens, vocab].

        Raises:
            LoadError: A segment that cannot be appended; nothing was appended.
        """
        own = own_cache(cache, owner=self, memory=TorchKvMemory)
        check_segments(own, segments, vocab_size=self.vocab_size)
        found: dict[int, FloatArray] = {}
        with torch.inference_mode():
            for group in _groups(segments):
                hidden = self._append(own, [segments[index] for index in group])
                for place, index in enumerate(group):
                    count = len(segments[index].tokens)
                    begin = 0 if segments[index].logits == "all" else count - 1
                    logits = self.model.lm_head(hidden[place, begin:count])
                    found[index] = np.asarray(logits.float().numpy())
        return [found[index] for index in range(len(segments))]

    def _append(self, cache: RaggedCache[TorchKvMemory], segments: Sequence[Segment]) -> torch.Tensor:
        """Hidden states [segments, width, hidden], right-padded; keys and values go to the cache."""
        from transformers import DynamicCache

        rows = torch.tensor([segment.row for segment in segments])
        held = torch.tensor([cache.lengths[segment.row] for segment in segments])
        counts = torch.tensor([len(segment.tokens) for segment in segments])
        past, width = int(held.max()), int(counts.max())
        tokens = torch.zeros(len(segments), width, dtype=torch.int64)
        for place, segment in enumerate(segments):
            tokens[place, : len(segment.tokens)] = torch.tensor(list(segment.tokens))
        positions = held[:, None] + torch.arange(width)[None, :]
        # Without a configuration no layer crops its past to a window: the masks say what is seen.
        state = DynamicCache()
        for layer, (keys, values) in enumerate(cache.memory.layers):
            state.update(keys[rows, :, :past], values[rows, :, :past], layer)
        masks = _masks(self.architecture, held=held, positions=positions, past=past)
        hidden = self.model.model(
            input_ids=tokens,
            position_ids=positions,
            attention_mask=masks,
            use_cache=True,
            **cache_argument(self.model.model, state),
        ).last_hidden_state
        real = torch.arange(width)[None, :] < counts[:, None]
        row_index = rows[:, None].expand(-1, width)[real]
        for (keys, values), layer in zip(cache.memory.layers, state.layers, strict=True):
            keys[row_index, :, positions[real]] = layer.keys[:, :, past:].transpose(1, 2)[real]
            values[row_index, :, positions[real]] = layer.values[:, :, past:].transpose(1, 2)[real]
        cache.append(segments)
        return torch.as_tensor(hidden)


def cache_argument(module: torch.nn.Module, cache: Untyped) -> dict[str, Untyped]:
    """The argument of `module.forward` that takes a KV cache, by the name that this transformers has for it.

    `cache` from 5.24 on, `past_key_values` before (https://github.com/huggingface/transformers).
    """
    parameters = inspect.signature(module.forward).parameters
    return {next(name for name in CACHE_NAMES if name in parameters): cache}


def _check_class(model: Untyped, architecture: Architecture, *, where: str) -> None:
    """Transformers goes by `model_type`: it must make the architecture that is exported."""
    if type(model).__name__ != architecture.name:
        raise CheckpointError(
            f"{where}: transformers makes a {type(model).__name__} of it, by its `model_type`, and "
            f"`architectures` says {architecture.name}",
            hint="compare config.json with the one that the checkpoint's publisher gives",
        )


def _replace_weights(model: Untyped, weights: Mapping[str, NDArray[np.float32]], *, where: str) -> None:
    if "lm_head.weight" in weights and model.config.tie_word_embeddings:
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    state = {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name, value in weights.items()
        if not name.endswith((f".{INPUT}", f".{OUTPUT}"))
    }
    if model.config.tie_word_embeddings and "lm_head.weight" not in state:
        state["lm_head.weight"] = state["model.embed_tokens.weight"]
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights do not fit `{where}`: {error}", hint="they must be of a variant of this checkpoint"
        ) from error
    for name in weights:
        if name.endswith(f".{INPUT}"):
            matrix = name.removesuffix(f".{INPUT}")
            module = model.get_submodule(matrix.removesuffix(".weight"))
            _round_activations(module, taken=weights[name], made=weights[f"{matrix}.{OUTPUT}"])


def _round_activations(module: Untyped, *, taken: NDArray[np.float32], made: NDArray[np.float32]) -> None:
    """Make a matrix product take and give values that have a 16-bit code; its bias is added behind that."""

    def before(module: Untyped, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (_rounded(inputs[0], taken), *inputs[1:])

    def after(module: Untyped, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        if module.bias is None:
            return _rounded(output, made)
        return _rounded(output - module.bias, made) + module.bias

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after)


def _rounded(value: torch.Tensor, extent: NDArray[np.float32]) -> torch.Tensor:
    steps = steps_of(float(extent[0]), float(extent[1]))
    codes = torch.round(value / steps.scale) + steps.zero
    return (codes.clamp(0, CODES) - steps.zero) * steps.scale


def _groups(segments: Sequence[Segment]) -> Iterator[list[int]]:
    """Indices of segments of similar length, whose padded size is bounded."""
    order = sorted(range(len(segments)), key=lambda index: len(segments[index].tokens))
    group: list[int] = []
    for index in order:
        count = len(segments[index].tokens)
        if group and (
            (len(group) + 1) * count > CALL_TOKENS or count > 2 * len(segments[group[0]].tokens) + 32
        ):
            yield group
            group = []
        group.append(index)
    if group:
        yield group


def _masks(
    architecture: Architecture, *, held: torch.Tensor, positions: torch.Tensor, past: int
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Which keys each query sees, bool [batch, 1, width, past + width], in the form that the model takes."""
    old = torch.arange(past)[None, :].expand(len(held), -1)
    old = torch.where(old < held[:, None], old, torch.iinfo(torch.int64).max)
    keys = torch.cat([old, positions], dim=1)[:, None, None, :]
    queries = positions[:, None, :, None]
    causal = keys <= queries
    windows = {window for window in architecture.windows if window is not None}
    if not windows:
        full = causal
        return {"full_attention": full} if _by_kind(architecture) else full
    sliding = causal & (keys > queries - windows.pop())
    if _by_kind(architecture):
        return {"full_attention": causal, "sliding_attention": sliding}
    return sliding


def _by_kind(architecture: Architecture) -> bool:
    """Whether the model in transformers takes one mask per kind of layer."""
    return architecture.name in ("Qwen2ForCausalLM", "Qwen3ForCausalLM")
