"""GPTQ: codes that make up for each other's errors on the activations of a calibration set.

Frantar et al., https://arxiv.org/abs/2210.17323. Layer by layer: the inputs of each matrix are gathered from
the model whose earlier layers are quantized already, so that a layer also corrects what came before it. Codes
and scales are what this computes; nothing is rounded a second time.

The embedding is looked up and not multiplied, so it has no Hessian: it is rounded to nearest, before all
layers. An output matrix that is tied to it and stored once has those codes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from compilers.model.architecture import Architecture
from compilers.model.torch_reference import CACHE_NAMES, load_model
from compilers.quantize.coded import Coded, CodedMatrix
from compilers.quantize.rtn import choose_scales, round_to_nearest
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX, CodedWeights

Untyped: TypeAlias = Any
"""What transformers passes around: its models have no types that hold."""

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of the diagonal's mean."""
BLOCK_COLUMNS = 128
"""Columns whose corrections are gathered before they are applied to the rest of the matrix."""
BATCH_TOKENS = 2048


@dataclass(slots=True)
class _Batch:
    """Calibration texts of similar length on their way through the layers."""

    tokens: torch.Tensor
    """int64 [batch, seq], right-padded."""
    real: torch.Tensor
    """bool [batch, seq]: which positions are no padding."""
    arguments: list[dict[str, Untyped]]
    """Per layer: what transformers passes to it beside the hidden state."""
    hidden: torch.Tensor
    """float32 [batch, seq, hidden]: the input of the next layer."""


def gptq_codes(
    checkpoint_dir: Path,
    architecture: Architecture,
    matrices: Mapping[str, CodedWeights],
    *,
    texts: Sequence[Sequence[int]],
) -> Iterator[CodedMatrix]:
    """Quantize the matrices of a checkpoint in the order of execution.

    Args:
        checkpoint_dir: The checkpoint.
        architecture: Its architecture.
        matrices: Those to quantize, and their forms.
        texts: Token ids of the calibration texts; each is cut at the checkpoint's context.
    """
    model = load_model(checkpoint_dir)
    if EMBEDDING in matrices:
        if OUTPUT_MATRIX in matrices:  # where the two were tied, the output matrix stays float until its turn
            model.model.embed_tokens.weight = torch.nn.Parameter(model.model.embed_tokens.weight.clone())
        yield _embedding(model, matrices[EMBEDDING])
    cut = [list(text)[: architecture.max_context] for text in texts]
    with torch.no_grad():
        batches = [_enter(model, tokens, real) for tokens, real in batched(cut)]
        for index, layer in enumerate(model.model.layers):
            prefix = f"model.layers.{index}."
            linears = {
                prefix + name: module
                for name, module in layer.named_modules()
                if f"{prefix}{name}.weight" in matrices
            }
            with _hessians(linears) as hessians:
                for batch in batches:
                    _run(layer, index, batch, hessians)
            for name, module in linears.items():
                weight = module.weight.detach().clone()
                coded = gptq_matrix(weight, hessians.sums[name], matrices[f"{name}.weight"])
                module.weight.copy_(coded.dequantized())
                yield CodedMatrix.of(f"{name}.weight", weight, coded)
            for batch in batches:
                batch.hidden = _run(layer, index, batch, None)
        if OUTPUT_MATRIX in matrices:
            yield _head(model, batches, matrices[OUTPUT_MATRIX])


def gptq_matrix(weight: torch.Tensor, hessian: torch.Tensor, form: CodedWeights) -> Coded:
    """Quantize one matrix.

    Args:
        weight: float32 [out, in].
        hessian: float64 [in, in], the sum of x xᵀ over the inputs x.
        form: Says what codes may be; its group size divides `in` and is None or a divisor or multiple of 128.
    """
    rows, columns = weight.shape
    group = form.group_size or columns
    inverse = _inverse_factor(hessian)
    rest = weight.clone()
    codes = torch.empty(rows, columns, dtype=torch.int16)
    scales = torch.empty(rows, columns // group, dtype=torch.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, columns)
        errors = torch.zeros(rows, end - start)
        for column in range(start, end):
            if column % group == 0:
                scales[:, column // group] = choose_scales(rest[:, column : column + group], form)
            scale = scales[:, column // group]
            value = rest[:, column]
            code = torch.round(value / scale).clamp_(form.low, form.high)
            codes[:, column] = code.to(torch.int16)
            error = (value - code * scale) / inverse[column, column]
            rest[:, column + 1 : end] -= torch.outer(error, inverse[column, column + 1 : end])
            errors[:, column - start] = error
        rest[:, end:] -= errors @ inverse[start:end, end:]
    return Coded(codes=codes, scales=scales)


def _inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper Cholesky factor of the damped Hessian's inverse, float32."""
    damped = hessian.clone()
    diagonal = damped.diagonal()
    diagonal[diagonal == 0] = 1.0  # an input that is always zero: its weights are rounded by themselves
    mean = diagonal.mean()
    damping = DAMPING
    while True:
        attempt = damped + torch.eye(len(damped), dtype=damped.dtype) * (damping * mean)
        factor, failed = torch.linalg.cholesky_ex(attempt)
        if int(failed) == 0:
            break
        damping *= 10
    inverse = torch.cholesky_inverse(factor)
    return torch.linalg.cholesky(inverse, upper=True).to(torch.float32)


class _Hessians:
    """Sums of x xᵀ per matrix, over the positions that are no padding."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.real: torch.Tensor | None = None

    def add(self, name: str, inputs: torch.Tensor) -> None:
        rows = inputs.reshape(-1, inputs.shape[-1])
        if self.real is not None:
            rows = rows[self.real.reshape(-1)]
        product = (rows.T @ rows).to(torch.float64)
        self.sums[name] = self.sums[name] + product if name in self.sums else product


@contextmanager
def _hessians(linears: Mapping[str, torch.nn.Module]) -> Iterator[_Hessians]:
    found = _Hessians()

    def watch(name: str) -> Callable[..., None]:
        return lambda module, inputs: found.add(name, inputs[0])

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linears.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def batched(texts: Iterable[list[int]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Texts of similar length, right-padded, at most `BATCH_TOKENS` positions unless one text is longer."""
    waiting: list[list[int]] = []
    for text in [*sorted(texts, key=len), []]:
        if waiting and (not text or (len(waiting) + 1) * len(text) > BATCH_TOKENS):
            width = len(waiting[-1])
            tokens = torch.tensor([row + [0] * (width - len(row)) for row in waiting])
            real = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in waiting])
            yield tokens, real
            waiting = []
        waiting.append(text)


def _enter(model: Untyped, tokens: torch.Tensor, real: torch.Tensor) -> _Batch:
    """Run the float model once to see what it passes to each layer."""
    arguments: list[dict[str, Untyped]] = []
    first: list[torch.Tensor] = []

    def watch(module: torch.nn.Module, positional: Sequence[torch.Tensor], named: dict[str, Untyped]) -> None:
        first.append(positional[0])
        arguments.append({key: value for key, value in named.items() if key not in CACHE_NAMES})

    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in model.model.layers]
    try:
        model.model(input_ids=tokens, attention_mask=real.long(), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return _Batch(tokens=tokens, real=real, arguments=arguments, hidden=first[0])


def _run(layer: torch.nn.Module, index: int, batch: _Batch, hessians: _Hessians | None) -> torch.Tensor:
    if hessians is not None:
        hessians.real = batch.real
    output = layer(batch.hidden, **batch.arguments[index])
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden


def _embedding(model: Untyped, form: CodedWeights) -> CodedMatrix:
    """The embedding, which is replaced in the model; so is an output matrix that is tied to it."""
    parameter = model.model.embed_tokens.weight
    weight = parameter.detach().clone()
    matrix = CodedMatrix.of(EMBEDDING, weight, round_to_nearest(weight, form))
    with torch.no_grad():
        parameter.copy_(matrix.coded.dequantized())
    return matrix


def _head(model: Untyped, batches: Sequence[_Batch], form: CodedWeights) -> CodedMatrix:
    hessians = _Hessians()
    for batch in batches:
        hessians.real = batch.real
        hessians.add("lm_head", model.model.norm(batch.hidden))
    weight = model.lm_head.weight.detach().clone()
    return CodedMatrix.of(OUTPUT_MATRIX, weight, gptq_matrix(weight, hessians.sums["lm_head"], form))
