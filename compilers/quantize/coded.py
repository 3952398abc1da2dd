"""Codes and scales of a matrix in memory, and the grid of values that codes may take."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from registry.recipe import Recipe


@dataclass(frozen=True, slots=True)
class CodeGrid:
    """The values that a code can take."""

    low: int
    high: int
    group_size: int | None
    """Inputs that share a scale; None: the whole row."""

    @property
    def zero(self) -> int:
        """What is added to a signed code before it is stored."""
        return 0 if self.group_size is None else -self.low


@dataclass(frozen=True, slots=True)
class Coded:
    """A matrix as signed codes and scales."""

    codes: torch.Tensor
    """int16 [out, in], between the grid's `low` and `high`."""
    scales: torch.Tensor
    """float32 [out, groups]."""

    def dequantized(self) -> torch.Tensor:
        """The matrix that the codes stand for, float32 [out, in]."""
        rows, columns = self.codes.shape
        grouped = self.codes.view(rows, self.scales.shape[1], -1).to(torch.float32)
        return (grouped * self.scales.unsqueeze(-1)).view(rows, columns)


def grid_of(recipe: Recipe) -> CodeGrid:
    """The grid of a quantizing recipe."""
    if recipe.group_size is None:
        high = 7 if recipe.weights == "int4" else 127
        return CodeGrid(low=-high, high=high, group_size=None)
    return (
        CodeGrid(low=-8, high=7, group_size=recipe.group_size)
        if recipe.weights == "int4"
        else CodeGrid(low=-128, high=127, group_size=recipe.group_size)
    )


@dataclass(frozen=True, slots=True)
class CodedMatrix:
    """A named matrix of a checkpoint, quantized."""

    name: str
    coded: Coded
    relative_error: float
    """‖W − Ŵ‖² / ‖W‖²; 0 for a matrix of zeros."""

    @classmethod
    def of(cls, name: str, weight: torch.Tensor, coded: Coded) -> CodedMatrix:
        """The matrix `weight` as `coded`."""
        norm = float(weight.square().sum(dtype=torch.float64))
        error = float((weight - coded.dequantized()).square_().sum(dtype=torch.float64))
        return cls(name=name, coded=coded, relative_error=error / norm if norm else 0.0)
