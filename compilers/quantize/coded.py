"""Codes and scales of a matrix in memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Coded:
    """A matrix as signed codes and scales."""

    codes: torch.Tensor
    """int16 [out, in], between the form's `low` and `high`."""
    scales: torch.Tensor
    """float32 [out, groups]."""

    def dequantized(self) -> torch.Tensor:
        """The matrix that the codes stand for, float32 [out, in]."""
        rows, columns = self.codes.shape
        grouped = self.codes.view(rows, self.scales.shape[1], -1).to(torch.float32)
        return (grouped * self.scales.unsqueeze(-1)).view(rows, columns)


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
