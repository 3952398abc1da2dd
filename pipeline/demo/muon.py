"""Muon in float32: the optimizer for the matrices of the demo family.

After Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024),
https://kellerjordan.github.io/posts/muon.
`torch.optim.Muon` iterates in bfloat16, which is slow on a CPU with AVX2 only.
"""

from collections.abc import Iterable
from typing import Final

import torch

_COEFFICIENTS: Final = (3.4445, -4.7750, 2.0315)
_ITERATIONS: Final = 5
_TINY: Final = 1e-7


class Muon:
    """Momentum whose update is made orthogonal.

    Args:
        matrices: Parameters of two dimensions.
        momentum: Share of the last direction that is kept.
    """

    def __init__(self, matrices: Iterable[torch.nn.Parameter], *, momentum: float = 0.95) -> None:
        self._matrices = list(matrices)
        self._momentum = momentum
        self._directions = [torch.zeros_like(matrix) for matrix in self._matrices]

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not followed
    def step(self, *, rate: float) -> None:
        """Move every matrix by its orthogonal direction times `rate`."""
        for matrix, direction in zip(self._matrices, self._directions, strict=True):
            if matrix.grad is None:
                continue
            direction.lerp_(matrix.grad, 1 - self._momentum)
            update = _orthogonal(matrix.grad.lerp(direction, self._momentum))
            scale = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            matrix.add_(update, alpha=-rate * scale)


def _orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Bring all singular values near one by Newton and Schulz's iteration of the fifth order."""
    first, second, third = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    result = (matrix.T if tall else matrix) / (matrix.norm() + _TINY)
    for _ in range(_ITERATIONS):
        gram = result @ result.T
        result = first * result + (second * gram + third * gram @ gram) @ result
    return result.T if tall else result
