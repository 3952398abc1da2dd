"""GPTQ: codes that make up for each other's errors on the activations of a calibration set.

Frantar et al., https://arxiv.org/abs/2210.17323. Layer by layer: the inputs of each matrix are gathered from
the model whose earlier layers are quantized already (`calibration.py`), so that a layer also corrects what
came before it. Codes and scales are what this computes; nothing is rounded a second time.

Matrices with the same input (q, k and v; gate and up) share a Hessian and are quantized as one, and rows do
not depend on each other. So work is cut into slices of rows, one thread each. Where the cuts are does not
depend on the number of threads, and neither do the codes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from compilers.model.architecture import Architecture
from compilers.model.torch_reference import load_model
from compilers.quantize.calibration import Calibration, TorchThreads, Untyped
from compilers.quantize.coded import Coded, CodedMatrix
from compilers.quantize.rtn import choose_scales, round_to_nearest
from compilers.quantize.saved_layers import SavedLayers
from registry.errors import BuildError, CheckpointError
from registry.weight_form import EMBEDDING, OUTPUT_MATRIX, CodedWeights

DAMPING = 0.01
"""Added to the Hessian's diagonal, as a share of the diagonal's mean."""
LARGEST_DAMPING = 1e6
BLOCK_COLUMNS = 128
"""Columns whose corrections are gathered before they are applied to the rest of the matrix."""
STEP_COLUMNS = 32
"""The same within a block; every group size is a multiple of it."""
SOLVED_SIZE = 96
"""Triangular matrices up to this size are inverted column by column."""
SLICE_ROWS = 1024
"""Rows that are quantized at once: a block of them fits into a core's cache."""

Progress = Callable[[str], None]
"""Shows what is being done now."""


@dataclass(frozen=True, slots=True)
class GptqInput:
    """What GPTQ quantizes, and with what."""

    checkpoint_dir: Path
    architecture: Architecture
    matrices: Mapping[str, CodedWeights]
    """Those to quantize, and their forms."""
    texts: Sequence[Sequence[int]]
    """Token ids of the calibration texts; each is cut at the checkpoint's context."""


def gptq_codes(
    given: GptqInput, *, saved: SavedLayers, threads: int, progress: Progress
) -> Iterator[CodedMatrix]:
    """Quantize the matrices of a checkpoint in the order of execution.

    Args:
        given: What is quantized.
        saved: Layers that were finished before; each new one is added.
        threads: How many work at the same time; the codes do not depend on it.
        progress: Told before each layer.

    Raises:
        CheckpointError: A weight is not finite.
        BuildError: An activation is not finite; its layer is named.
    """
    model = load_model(given.checkpoint_dir)
    if EMBEDDING in given.matrices:
        if OUTPUT_MATRIX in given.matrices:  # where the two were tied, it stays float until its turn
            model.model.embed_tokens.weight = torch.nn.Parameter(model.model.embed_tokens.weight.clone())
        yield _embedding(model, given.matrices[EMBEDDING])
    cut = [list(text)[: given.architecture.max_context] for text in given.texts]
    layers = list(model.model.layers)
    with TorchThreads(threads) as work:
        calibration = Calibration.enter(model, cut, work=work)
        clock = _Clock(len(layers) + (OUTPUT_MATRIX in given.matrices), progress)
        for index, layer in enumerate(layers):
            prefix = f"model.layers.{index}."
            linears = {
                f"{prefix}{name}": module
                for name, module in layer.named_modules()
                if f"{prefix}{name}.weight" in given.matrices
            }
            forms = {name: given.matrices[f"{name}.weight"] for name in linears}
            coded = saved.read(index, {name: tuple(module.weight.shape) for name, module in linears.items()})
            clock.next(f"layer {index + 1} of {len(layers)}", resumed=coded is not None)
            if coded is None:
                hessians = calibration.hessians(index, linears)
                coded = _quantize_layer(linears, forms, hessians, work=work)
                saved.write(index, coded)
            for name, module in linears.items():
                weight = module.weight.detach().clone()
                module.weight.data = coded[name].dequantized()
                yield CodedMatrix.of(f"{name}.weight", weight, coded[name])
            calibration.advance(index)
        if OUTPUT_MATRIX in given.matrices:
            clock.next("output matrix", resumed=False)
            yield _head(model, calibration, given.matrices[OUTPUT_MATRIX], work=work)


def gptq_matrix(weight: torch.Tensor, hessian: torch.Tensor, form: CodedWeights) -> Coded:
    """Quantize one matrix.

    Args:
        weight: float32 [out, in].
        hessian: float64 [in, in], the sum of x xᵀ over the inputs x.
        form: Says what codes may be; its group size divides `in` and is None or a multiple of 32.

    Raises:
        BuildError: The Hessian is not finite.
    """
    with TorchThreads(1) as work:
        return _joint([weight], inverse_factor(hessian, where="a matrix"), form, work=work)[0]


def _quantize_layer(
    linears: Mapping[str, Untyped],
    forms: Mapping[str, CodedWeights],
    hessians: Mapping[tuple[str, ...], torch.Tensor],
    *,
    work: TorchThreads,
) -> dict[str, Coded]:
    """The matrices of a layer by name; `hessians` has one for the names of those with one input."""
    for name, module in linears.items():
        _check_weight(f"{name}.weight", module.weight)
    together = list(hessians)
    factors = work.each(
        lambda names: inverse_factor(hessians[names], where=" and ".join(f"`{name}`" for name in names)),
        together,
    )
    found: dict[str, Coded] = {}
    for names, factor in zip(together, factors, strict=True):
        by_form: dict[CodedWeights, list[str]] = {}
        for name in names:
            by_form.setdefault(forms[name], []).append(name)
        for form, alike in by_form.items():
            weights = [linears[name].weight.detach() for name in alike]
            found.update(zip(alike, _joint(weights, factor, form, work=work), strict=True))
    return found


def _joint(
    weights: Sequence[torch.Tensor], factor: torch.Tensor, form: CodedWeights, *, work: TorchThreads
) -> list[Coded]:
    """Quantize matrices that have the same input."""
    rows = torch.cat(list(weights))
    slices = work.each(lambda part: _slice(part, factor, form), list(rows.split(SLICE_ROWS)))
    codes = torch.cat([part.codes for part in slices])
    scales = torch.cat([part.scales for part in slices])
    sizes = [len(weight) for weight in weights]
    return [
        Coded(codes=c.contiguous(), scales=s.contiguous())
        for c, s in zip(codes.split(sizes), scales.split(sizes), strict=True)
    ]


def _slice(weight: torch.Tensor, factor: torch.Tensor, form: CodedWeights) -> Coded:
    """Quantize some rows, transposed: one column after the other is worked on, and is contiguous then."""
    rows, columns = weight.shape
    group = form.group_size or columns
    rest = weight.T.contiguous()
    codes = torch.empty(columns, rows, dtype=torch.int16)
    scales = torch.empty(columns // group, rows, dtype=torch.float32)
    for start in range(0, columns, BLOCK_COLUMNS):
        end = min(start + BLOCK_COLUMNS, columns)
        errors = torch.empty(end - start, rows)
        for first in range(start, end, STEP_COLUMNS):
            last = min(first + STEP_COLUMNS, end)
            for column in range(first, last):
                if column % group == 0:
                    scales[column // group] = choose_scales(rest[column : column + group].T, form)
                scale = scales[column // group]
                code = torch.div(rest[column], scale).round_().clamp_(form.low, form.high)
                codes[column] = code
                error = errors[column - start]
                torch.sub(rest[column], code.mul_(scale), out=error).div_(factor[column, column])
                rest[column + 1 : last].addr_(factor[column, column + 1 : last], error, alpha=-1)
            rest[last:end].addmm_(
                factor[first:last, last:end].T, errors[first - start : last - start], alpha=-1
            )
        rest[end:].addmm_(factor[start:end, end:].T, errors, alpha=-1)
    return Coded(codes=codes.T.contiguous(), scales=scales.T.contiguous())


def inverse_factor(hessian: torch.Tensor, *, where: str) -> torch.Tensor:
    """The upper Cholesky factor U of the damped Hessian's inverse, UᵀU = H⁻¹, float32, up to a factor.

    It follows from one factorization of the reversed Hessian: with J for the reversal, J H J = L Lᵀ gives
    U = J L⁻¹ J.

    Raises:
        BuildError: The Hessian is not finite; `where` says of what.
    """
    damped = hessian.flip(0, 1)
    diagonal = damped.diagonal()
    if not bool(torch.isfinite(damped).all()):
        raise BuildError(
            f"the activations that go into {where} are not finite, so GPTQ cannot quantize it",
            hint="weights this large overflow in float32: check the checkpoint, or take a recipe in `-rtn`",
        )
    diagonal[diagonal == 0] = diagonal.max() or 1.0  # an input that is always zero: rounded by itself
    damped /= diagonal.mean()
    damping, eye = DAMPING, torch.eye(len(damped), dtype=damped.dtype)
    while damping <= LARGEST_DAMPING:
        factor, failed = torch.linalg.cholesky_ex(damped + eye * damping)
        if int(failed) == 0:
            return _inverse_of_lower(factor).flip(0, 1).to(torch.float32)
        damping *= 10
    raise BuildError(
        f"the Hessian of {where} is not positive definite, so GPTQ cannot quantize it",
        hint="take other calibration texts, or a recipe in `-rtn`",
    )


def _inverse_of_lower(factor: torch.Tensor) -> torch.Tensor:
    """The inverse of a lower triangular matrix, by halves: a third of the work of solving for each column."""
    size = len(factor)
    if size <= SOLVED_SIZE:
        return torch.linalg.solve_triangular(factor, torch.eye(size, dtype=factor.dtype), upper=False)
    half = size // 2
    first, last = _inverse_of_lower(factor[:half, :half]), _inverse_of_lower(factor[half:, half:])
    inverse = torch.zeros_like(factor)
    inverse[:half, :half], inverse[half:, half:] = first, last
    inverse[half:, :half] = (last @ factor[half:, :half] @ first).neg_()
    return inverse


def _embedding(model: Untyped, form: CodedWeights) -> CodedMatrix:
    """The embedding, which is replaced in the model; so is an output matrix that is tied to it."""
    parameter = model.model.embed_tokens.weight
    weight = parameter.detach().clone()
    _check_weight(EMBEDDING, weight)
    matrix = CodedMatrix.of(EMBEDDING, weight, round_to_nearest(weight, form))
    with torch.no_grad():
        parameter.copy_(matrix.coded.dequantized())
    return matrix


def _head(model: Untyped, calibration: Calibration, form: CodedWeights, *, work: TorchThreads) -> CodedMatrix:
    weight = model.lm_head.weight.detach()
    _check_weight(OUTPUT_MATRIX, weight)
    factor = inverse_factor(calibration.head_hessian(), where="`lm_head`")
    return CodedMatrix.of(OUTPUT_MATRIX, weight, _joint([weight], factor, form, work=work)[0])


def _check_weight(name: str, weight: torch.Tensor) -> None:
    if not bool(torch.isfinite(weight).all()):
        raise CheckpointError(
            f"tensor `{name}` holds NaN or infinity",
            hint="the file is damaged or training diverged; take the checkpoint from its source again",
        )


class _Clock:
    """Says which step comes, and how long the rest takes at the speed so far."""

    def __init__(self, steps: int, progress: Progress) -> None:
        self._steps = steps
        self._progress = progress
        self._done = 0
        self._worked = 0
        self._began = time.monotonic()

    def next(self, what: str, *, resumed: bool) -> None:
        now = time.monotonic()
        if self._worked == 0:
            self._began = now
            estimate = ""
        else:
            rest = (self._steps - self._done) * (now - self._began) / self._worked
            estimate = f", about {max(1, round(rest))} s left"
        self._progress(f"GPTQ: {what}{' (finished before)' if resumed else ''}{estimate}")
        self._done += 1
        self._worked += not resumed
