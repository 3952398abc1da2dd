"""Outliers in activations: matrices whose inputs must not be rounded to 8 bits.

Trained models have channels, and tokens, whose activations are tens to thousands of times the others
(https://arxiv.org/abs/2208.07339, https://arxiv.org/abs/2402.17762). A scale that reaches them leaves few
of 256 codes for all the rest. So the checkpoint is run on some texts, and what rounding would add to the
inputs of each matrix is held against what is in them apart from their outliers. A checkpoint in which this is
nowhere above a limit has no outliers, and nothing is marked. In any other, matrices are marked, the worst
first, until rounding the inputs of the rest changes the likeliest token almost nowhere. The weights file has
the marks, and code that multiplies a marked matrix keeps its inputs in float, or gives them 15 bits or more.

Measured on SmolLM2-135M: KL to float inputs, share of likeliest tokens that change, inputs above the limit,
of 121 (projections that read the same count once). On checkpoints without outliers (the demo's, random ones)
the largest error is .036 per token and .022 per group.

    per token,  limit none     .038    .081     0        groups of 64, limit none     .0049    .031     0
                      .06      .010    .037    41                      .05      .0040    .044     9
                      .04      .0039   .025    63                      .03      .0022    .025    31
                      .03      .0008   .006    85                      .02      .0010    .025    46
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from compilers.model.architecture import Architecture
from compilers.quantize.calibration import Untyped
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX, CodedWeights

LIMIT_PER_TOKEN: Final = 0.04
"""Of `rounding_error`'s root, where a token's inputs share one scale; above it a checkpoint has outliers."""
LIMIT_PER_GROUP: Final = 0.025
"""The same where each group of inputs has its scale."""
LOWERED: Final = 0.5
"""Factor on the limit for the next try."""
TRIES: Final = 4
"""After so many, all are marked."""
MOST_CHANGED: Final[Mapping[int, float]] = {8: 0.004, 4: 0.02}
"""Bits of the weights → share of positions at which rounding inputs may change the likeliest token, in a
checkpoint with outliers; 4-bit weights change many more by themselves."""
OUTLYING: Final = 32
"""One in so many inputs of a token may be an outlier."""
LARGEST_CODE: Final = 127
TEXTS: Final = 8
TOKENS: Final = 64
"""Of each text."""


def find_wide_inputs(
    checkpoint_dir: Path,
    architecture: Architecture,
    matrices: Mapping[str, CodedWeights],
    texts: Sequence[Sequence[int]],
) -> frozenset[str]:
    """The matrices whose inputs must not be rounded to 8 bits; none in a checkpoint without outliers.

    Args:
        checkpoint_dir: Checkpoint in the Hugging Face layout.
        architecture: Of the checkpoint.
        matrices: Those that a recipe quantizes, and their forms.
        texts: Token ids to run it on, of which a few are used; random tokens if there are none.

    Raises:
        CheckpointError: transformers cannot read the checkpoint.
    """
    asked = {name: form for name, form in matrices.items() if form.activations != "int16-static"}
    if not asked:
        return frozenset()
    from compilers.model.torch_reference import load_model

    trial = _Trial(load_model(checkpoint_dir), architecture, asked, list(_chosen(texts, architecture)))
    errors, exact = trial.measured()
    excess = {name: error / _limit(asked[name]) for name, error in errors.items()}
    if all(one <= 1.0 for one in excess.values()):
        return frozenset()
    bearable = min(MOST_CHANGED[form.bits] for form in asked.values())
    for limit in (LOWERED**step for step in range(TRIES)):
        # Not `one > limit`: where activations are no numbers, neither is the error.
        wide = frozenset(name for name, one in excess.items() if not one <= limit)
        if float(np.mean(trial.likeliest_tokens(rounded=errors.keys() - wide) != exact)) <= bearable:
            return wide
    return frozenset(errors)


def rounding_error(inputs: torch.Tensor, *, group_size: int | None) -> torch.Tensor:
    """What rounding to 8 bits adds to each token's inputs, as a share of those that are no outliers.

    Both as powers: the mean square of a rounding step's error, over the mean square of the inputs, of which
    the largest are counted as large as the largest of the others.

    Args:
        inputs: float32 [tokens, inputs].
        group_size: Inputs that share a scale; None: all of a token.

    Returns:
        float32 [tokens].
    """
    sizes = inputs.abs()
    count = sizes.shape[1]
    steps = sizes.view(len(sizes), -1, group_size or count).amax(-1) / LARGEST_CODE
    ordinary = sizes.kthvalue(max(1, count - max(1, count // OUTLYING)), dim=-1).values
    power = torch.minimum(sizes, ordinary.unsqueeze(-1)).square().mean(-1)
    return steps.square().mean(-1) / 12 / power.clamp_min(torch.finfo(torch.float32).tiny)


def rounded_inputs(inputs: torch.Tensor, *, group_size: int | None) -> torch.Tensor:
    """Inputs [..., inputs] rounded to 8 bits, with one scale per token or per group of inputs."""
    groups = inputs.unflatten(-1, (-1, group_size or inputs.shape[-1]))
    steps = groups.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / LARGEST_CODE
    return ((groups / steps).round() * steps).flatten(start_dim=-2)


Look = Callable[[str, torch.Tensor], torch.Tensor]
"""Takes the name of a matrix and its inputs, and gives the inputs to multiply instead."""


@dataclass(frozen=True, slots=True)
class _Trial:
    """A checkpoint, run on a few texts."""

    model: Untyped
    architecture: Architecture
    forms: Mapping[str, CodedWeights]
    texts: Sequence[Sequence[int]]

    def measured(self) -> tuple[dict[str, float], NDArray[np.int64]]:
        """The rounding error of each matrix, the root of its mean over all tokens; the likeliest tokens."""
        seen: dict[str, list[torch.Tensor]] = {}

        def look(name: str, inputs: torch.Tensor) -> torch.Tensor:
            tokens = inputs.flatten(end_dim=-2)
            seen.setdefault(name, []).append(rounding_error(tokens, group_size=self.forms[name].group_size))
            return inputs

        tokens = self._likeliest_tokens(self.forms, look)
        return {
            name: float(torch.cat(errors).double().mean().sqrt()) for name, errors in seen.items()
        }, tokens

    def likeliest_tokens(self, *, rounded: Iterable[str]) -> NDArray[np.int64]:
        """The likeliest next token at each position, if the inputs of some matrices are rounded to 8 bits."""
        return self._likeliest_tokens(
            rounded, lambda name, inputs: rounded_inputs(inputs, group_size=self.forms[name].group_size)
        )

    def _likeliest_tokens(self, names: Iterable[str], look: Look) -> NDArray[np.int64]:
        found: list[torch.Tensor] = []
        with torch.no_grad(), self._watched(names, look):
            for text in self.texts:
                logits = self.model(input_ids=torch.tensor([list(text)]), use_cache=False).logits
                found.append(logits[0].argmax(-1))
        return np.asarray(torch.cat(found).numpy())

    @contextmanager
    def _watched(self, names: Iterable[str], look: Look) -> Iterator[None]:
        def hook(name: str) -> Untyped:
            return lambda module, taken: (look(name, taken[0]), *taken[1:])

        with ExitStack() as stack:
            for name in names:
                module = self._multiplied_by(name)
                if module is not None:
                    stack.callback(module.register_forward_pre_hook(hook(name)).remove)
            yield

    def _multiplied_by(self, name: str) -> torch.nn.Module | None:
        """The module that multiplies by a matrix; None for an embedding that is only looked up in."""
        if name == EMBEDDING and (not self.architecture.tie_embeddings or OUTPUT_MATRIX in self.forms):
            return None
        path = "lm_head" if name in (EMBEDDING, OUTPUT_MATRIX) else name.removesuffix(".weight")
        module: torch.nn.Module = self.model.get_submodule(path)
        return module


def _limit(form: CodedWeights) -> float:
    return LIMIT_PER_TOKEN if form.group_size is None else LIMIT_PER_GROUP


def _chosen(texts: Sequence[Sequence[int]], architecture: Architecture) -> Iterator[list[int]]:
    """A few texts from the whole set, cut; random tokens where there are none, or too few."""
    longest = min(TOKENS, architecture.max_context)
    whole = [list(text)[:longest] for text in texts if len(text) > 0]
    some = whole[:: max(1, len(whole) // TEXTS)][:TEXTS]
    yield from some
    missing = TEXTS - sum(map(len, some)) // longest
    draw = np.random.default_rng(0)
    for _ in range(missing if missing > TEXTS // 2 else 0):
        yield [int(token) for token in draw.integers(0, architecture.vocab_size, longest)]
