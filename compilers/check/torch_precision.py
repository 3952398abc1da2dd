"""Transformers' own forward pass in float64, and what float32 costs: the scale of float parity.

Nothing here reads masks or positions from a configuration: each sequence goes through the model as
transformers runs it. So it also shows whether `TorchSession`, which makes masks for ragged batches, computes
the same network.

Torch's float32 error is one draw of rounding per logit, and where all errors come from one large activation,
a position may be right by chance. So it is drawn several times: with the channels of the hidden state and of
the MLPs in another order the network is the same, and its sums are not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Final

import numpy as np
import torch

from compilers.check.bounds import FLOAT_BOUND
from compilers.check.float_error import FloatError, float_error, float_figures, worst
from compilers.check.probe import SINGLE_STEPS, counted, reference_logits, stepwise_logits
from compilers.model.torch_reference import TorchSession, Untyped, cache_argument
from compilers.runtime import FloatArray
from registry.errors import CheckpointError

ORDERS: Final = 3
"""Orders of channels beside the checkpoint's own."""

Probe = Sequence[Sequence[int]]


def exact_logits(session: TorchSession, probe: Probe) -> FloatArray:
    """Logits of a probe in float64, rounded once to float32 [positions, vocab].

    Rotary angles are float32, as transformers computes them whatever the type of the weights.

    Raises:
        CheckpointError: Some are NaN or infinite.
    """
    model = session.model
    model.double()
    try:
        with _exact_norms(model):
            logits = _whole(model, probe)
    finally:
        model.float()
    if not np.isfinite(logits).all():
        raise CheckpointError(
            "the checkpoint's logits hold NaN or infinity, even in float64",
            hint="the training or the conversion that made it failed: take an earlier checkpoint",
        )
    return logits


def torch_error(session: TorchSession, probe: Probe, *, exact: FloatArray) -> FloatError:
    """How far float32 is from float64, in prefill and step by step.

    Args:
        session: The checkpoint.
        probe: The sequences.
        exact: Their `exact_logits`.

    Raises:
        CheckpointError: Float32 gives NaN or infinity, or the session computes another network than
            transformers does.
    """
    model = session.model
    runs = [_whole(model, probe), _stepwise(model, probe)]
    for seed in range(ORDERS):
        with _reordered(model, seed=seed):
            runs.append(_whole(model, probe))
    if not all(np.isfinite(run).all() for run in runs):
        raise CheckpointError(
            "the checkpoint's logits hold NaN or infinity in float32",
            hint="its activations overflow float32: no artifact of it can be right",
        )
    error = float_error(runs, exact=exact)
    ours = [reference_logits(session, probe), stepwise_logits(session, probe)]
    figures = worst([float_figures(run, exact=exact, error=error) for run in ours])
    if not figures.within(FLOAT_BOUND):
        raise CheckpointError(
            "transformers computes other logits for this checkpoint than Rung's reading of its config.json: "
            f"they differ by {figures} what float32 explains",
            hint="an option of config.json is not supported; please report it with the config.json",
        )
    return error


def _whole(model: Untyped, probe: Probe) -> FloatArray:
    """Each sequence in one pass."""
    with torch.inference_mode():
        return np.concatenate(
            [
                model(input_ids=torch.tensor([list(sequence)]), logits_to_keep=counted(sequence))
                .logits[0]
                .float()
                .numpy()
                for sequence in probe
            ]
        )


def _stepwise(model: Untyped, probe: Probe) -> FloatArray:
    """Each sequence as a prompt and single tokens, with the KV cache that transformers takes for it."""
    from transformers import DynamicCache

    found = []
    with torch.inference_mode():
        for sequence in probe:
            cache = cache_argument(model, DynamicCache(config=model.config))
            end = max(1, len(sequence) - SINGLE_STEPS)
            keep = counted(sequence) - (len(sequence) - end)
            for begin, stop in [(0, end), *((at, at + 1) for at in range(end, len(sequence)))]:
                tokens = torch.tensor([list(sequence[begin:stop])])
                wanted = keep if begin == 0 else 1
                out = model(input_ids=tokens, use_cache=True, logits_to_keep=wanted, **cache)
                found.append(out.logits[0].float().numpy())
    return np.concatenate(found)


@contextmanager
def _exact_norms(model: Untyped) -> Iterator[None]:
    """Root-mean-square norms in the type of their input; transformers computes them in float32 always."""

    def forward(norm: Untyped, hidden: torch.Tensor) -> torch.Tensor:
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return norm.weight * (hidden * torch.rsqrt(variance + norm.variance_epsilon))

    norms = [module for module in model.modules() if hasattr(module, "variance_epsilon")]
    for norm in norms:
        norm.forward = MethodType(forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward


@contextmanager
def _reordered(model: Untyped, *, seed: int) -> Iterator[None]:
    """The same network with its channels in another order."""
    draw = torch.Generator().manual_seed(seed)
    hidden = torch.randperm(model.config.hidden_size, generator=draw)
    inner = [torch.randperm(layer.mlp.down_proj.in_features, generator=draw) for layer in model.model.layers]
    _reorder(model, hidden=hidden, inner=inner)
    try:
        yield
    finally:
        _reorder(model, hidden=hidden.argsort(), inner=[order.argsort() for order in inner])


def _reorder(model: Untyped, *, hidden: torch.Tensor, inner: Sequence[torch.Tensor]) -> None:
    outer = model.model
    embedding, head = outer.embed_tokens.weight, model.lm_head.weight
    _take(embedding, 1, hidden)
    if head is not embedding:
        _take(head, 1, hidden)
    _take(outer.norm.weight, 0, hidden)
    for layer, order in zip(outer.layers, inner, strict=True):
        attention, mlp = layer.self_attn, layer.mlp
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            _take(norm.weight, 0, hidden)
        for reader in (attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj):
            _take(reader.weight, 1, hidden)
        for writer in (attention.o_proj, mlp.down_proj):
            _take(writer.weight, 0, hidden)
            _take(writer.bias, 0, hidden)
        for maker in (mlp.gate_proj, mlp.up_proj):
            _take(maker.weight, 0, order)
            _take(maker.bias, 0, order)
        _take(mlp.down_proj.weight, 1, order)


def _take(parameter: torch.nn.Parameter | None, dimension: int, order: torch.Tensor) -> None:
    if parameter is not None:
        parameter.data = parameter.data.index_select(dimension, order).contiguous()
