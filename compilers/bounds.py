"""Bounds of parity: how far an artifact's logits may be from torch's, as data.

Float arithmetic: the largest difference is at most `MAX_ABS`, times |logit| / `LARGE_LOGIT` where logits are
larger than that (float32 keeps seven digits, so a sum's error grows with its terms). Torch's own float32 is
off its float64 by 0.8 to 1.5e-4 on trained checkpoints whose logits reach 18 to 23: no artifact can be held
to less than twice that.

Integer arithmetic: activations are rounded as well, an error that torch's reference on the same
weights does not have. How much of it reaches the logits depends on the checkpoint: deep and peaked ones
amplify it many times more than others, so no fixed number would tell rounding from damage. But a checkpoint
amplifies the rounding of weights in the same way. So the bound is a share of what quantization itself did:
KL(variant in torch ‖ artifact) is at most `SHARES` × KL(checkpoint ‖ variant in torch).

Measured on twelve checkpoints (random ones of the four architectures and trained ones; 0.1 to 6 M
parameters), the share as built, and with every scale off by 3 % (normal noise), which must be caught:

                          as built            scales off by 3 %
    8-bit, rounded        1.1   to 3.4        18    to 120
    4-bit, rounded        0.004 to 0.011      0.12  to 0.32
    4-bit, GPTQ           0.006 to 0.060      0.13  to 2.6
"""

from __future__ import annotations

from collections.abc import Mapping

from registry.recipe import Recipe

MAX_ABS = 1e-4
LARGE_LOGIT = 8.0

SHARES: Mapping[tuple[str, str], float] = {
    ("int8", "rtn"): 6.0,
    ("int8", "gptq"): 20.0,
    ("int4", "rtn"): 0.04,
    ("int4", "gptq"): 0.1,
}
"""(element type of the weights, method) → share."""

_GROUPED = {bits: tuple(f"w{bits}g{group}" for group in (32, 64, 128)) for bits in (4, 8)}

ACTIVATION_BITS: Mapping[str, Mapping[str, int]] = {
    "onnxruntime": {"w8a8": 8, **dict.fromkeys((*_GROUPED[4], *_GROUPED[8]), 8)},
    "tvm": {"w8a8": 8, **dict.fromkeys(_GROUPED[4], 8), **dict.fromkeys(_GROUPED[8], 16)},
}
"""Toolchain → layout → bits of activations in its products; all others are held to float arithmetic."""

FINE = 1e-3
"""Factor on the share for 16-bit activations: rounding is 256 times finer, its KL 65,536 times smaller."""


def float_bound(largest_logit: float) -> float:
    """The largest difference that float arithmetic may make."""
    return MAX_ABS * max(1.0, largest_logit / LARGE_LOGIT)


def integer_share(recipe: Recipe, *, toolchain: str) -> float | None:
    """The share for this recipe and toolchain; None where products are in float."""
    bits = ACTIVATION_BITS.get(toolchain, {}).get(recipe.layout)
    if bits is None:
        return None
    share = SHARES[recipe.weights, recipe.method]
    return share if bits == 8 else share * FINE
