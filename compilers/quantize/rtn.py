"""Round to nearest: codes and scales of a matrix by itself, without looking at activations.

Scales are symmetric around the code that stands for zero. Within a group the scale that makes the least
squared error is taken from a few candidates: the one that reaches the largest weight, and some that clip it.
"""

from __future__ import annotations

import torch

from compilers.quantize.coded import Coded, Grid

CLIPS = (1.0, 0.95, 0.9, 0.85, 0.8)
"""Candidate scales, as shares of the one that reaches the largest weight."""


def round_to_nearest(weight: torch.Tensor, grid: Grid) -> Coded:
    """Quantize a float32 matrix [out, in]; `in` must be a multiple of the group size."""
    rows, columns = weight.shape
    grouped = weight.view(rows, -1, grid.group_size or columns)
    scales = choose_scales(grouped, grid)
    codes = torch.round(grouped / scales.unsqueeze(-1)).clamp_(grid.low, grid.high)
    return Coded(codes=codes.to(torch.int16).view(rows, columns), scales=scales)


def choose_scales(grouped: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The scale of least squared error of each group.

    Args:
        grouped: float32 [..., size of a group].
        grid: What codes may be.

    Returns:
        float32 [...], never zero. A grid with more negative codes than positive ones gets the sign with which
        the group's largest weight falls on the lowest code.
    """
    largest = grouped.abs().amax(dim=-1)
    if -grid.low > grid.high:
        index = grouped.abs().argmax(dim=-1, keepdim=True)
        full = grouped.gather(-1, index).squeeze(-1) / grid.low
    else:
        full = largest / grid.high
    full = torch.where(largest > torch.finfo(torch.float32).tiny * 1e3, full, torch.ones_like(full))
    best, least = full, torch.full_like(full, torch.inf)
    for clip in CLIPS:
        scale = full * clip
        column = scale.unsqueeze(-1)
        error = (torch.round(grouped / column).clamp_(grid.low, grid.high).mul_(column) - grouped).square_()
        total = error.sum(dim=-1)
        best = torch.where(total < least, scale, best)
        least = torch.minimum(total, least)
    return best
