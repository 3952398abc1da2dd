"""Round to nearest: codes and scales of a matrix by itself, without looking at activations.

Scales are symmetric around the code that stands for zero, and reach the largest weight of their group. Scales
of least squared error, which clip it, were measured and left: they did not lower KL divergence on a trained
checkpoint (.0116 nats against .0112 in 4 bits), and took five times as long.
"""

from __future__ import annotations

import torch

from compilers.quantize.coded import Coded
from registry.weight_form import CodedWeights


def round_to_nearest(weight: torch.Tensor, form: CodedWeights) -> Coded:
    """Quantize a float32 matrix [out, in]; `in` must be a multiple of the group size."""
    rows, columns = weight.shape
    grouped = weight.view(rows, -1, form.group_size or columns)
    scales = choose_scales(grouped, form)
    codes = torch.round(grouped / scales.unsqueeze(-1)).clamp_(form.low, form.high)
    return Coded(codes=codes.to(torch.int16).view(rows, columns), scales=scales)


def choose_scales(grouped: torch.Tensor, form: CodedWeights) -> torch.Tensor:
    """The scale of each group.

    Args:
        grouped: float32 [..., size of a group].
        form: Says what codes may be.

    Returns:
        float32 [...], never zero. Of a form with more negative codes than positive ones it has the sign that
        puts the group's largest weight on the lowest code, so that no code is wasted.
    """
    index = grouped.abs().argmax(dim=-1, keepdim=True)
    largest = grouped.gather(-1, index).squeeze(-1)
    scales = largest / form.low if -form.low > form.high else largest.abs() / form.high
    # Weights this small are zero: a scale made of them would not be a normal number.
    return torch.where(largest.abs() > torch.finfo(torch.float32).tiny * 1e3, scales, torch.ones_like(scales))
