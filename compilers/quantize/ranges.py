"""Ranges of static activations: what goes into each quantized matrix and what comes out of it.

Measured in torch, on the calibration set, with the quantized weights in place: those are the activations that
the compiled code will see. Padding is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from compilers.model.activations import HEADROOM
from compilers.model.architecture import Architecture
from compilers.quantize.calibration import Untyped, batched
from compilers.quantize.coded import CodedMatrix

HEAD = "lm_head.weight"
HEAD_ROWS = 128
"""Positions whose logits are made at once: with large vocabularies they are the largest tensor of all."""


@dataclass(slots=True)
class _Extent:
    low: float = 0.0
    high: float = 0.0

    def add(self, value: torch.Tensor) -> None:
        self.low = min(self.low, float(value.min()))
        self.high = max(self.high, float(value.max()))

    def stored(self) -> NDArray[np.float32]:
        return np.asarray([self.low * HEADROOM, self.high * HEADROOM], np.float32)


@dataclass(frozen=True, slots=True)
class ActivationRanges:
    """The two ranges of one matrix, with headroom, float32 [2] each: least and largest value."""

    input: NDArray[np.float32]
    output: NDArray[np.float32]


class RangeMeter:
    """A checkpoint whose matrices are replaced by quantized ones, and then measured.

    Args:
        checkpoint_dir: Checkpoint in the Hugging Face layout.
        architecture: Of the checkpoint.

    Raises:
        CheckpointError: transformers cannot read it.
    """

    def __init__(self, checkpoint_dir: Path, architecture: Architecture) -> None:
        from compilers.model.torch_reference import load_model

        self._model: Untyped = load_model(checkpoint_dir)
        self._longest = architecture.max_context
        self._modules: dict[str, torch.nn.Module] = {}

    def replace(self, matrix: CodedMatrix) -> None:
        """Put a quantized matrix in the place of its float one; it will be measured."""
        module = self._model.get_submodule(matrix.name.removesuffix(".weight"))
        # A new parameter, since the output matrix may be tied to the embedding, which stays as it is.
        module.weight = torch.nn.Parameter(matrix.coded.dequantized(), requires_grad=False)
        self._modules[matrix.name] = module

    def measure(self, texts: Sequence[Sequence[int]]) -> dict[str, ActivationRanges]:
        """The ranges of every replaced matrix over these token ids."""
        cut = [list(text)[: self._longest] for text in texts]
        with torch.no_grad(), _watch(self._modules) as seen:
            for tokens, real in batched(cut):
                seen.real = real
                hidden = self._model.model(
                    input_ids=tokens, attention_mask=real.long(), use_cache=False
                ).last_hidden_state
                if HEAD in self._modules:
                    seen.real = None
                    for rows in hidden[real].split(HEAD_ROWS):
                        self._model.lm_head(rows)
        return {
            name: ActivationRanges(seen.inputs[name].stored(), seen.outputs[name].stored())
            for name in self._modules
        }


class _Seen:
    def __init__(self, names: Sequence[str]) -> None:
        self.real: torch.Tensor | None = None
        self.inputs = {name: _Extent() for name in names}
        self.outputs = {name: _Extent() for name in names}

    def add(self, name: str, taken: torch.Tensor, made: torch.Tensor, bias: torch.Tensor | None) -> None:
        if self.real is not None:
            taken, made = taken[self.real], made[self.real]
        self.inputs[name].add(taken)
        self.outputs[name].add(made if bias is None else made - bias)


@contextmanager
def _watch(modules: Mapping[str, torch.nn.Module]) -> Iterator[_Seen]:
    seen = _Seen(list(modules))

    def watch(name: str) -> Untyped:
        def look(module: Untyped, taken: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
            seen.add(name, taken[0], made, module.bias)

        return look

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.callback(module.register_forward_hook(watch(name)).remove)
        yield seen
