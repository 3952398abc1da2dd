"""Parity: how close an artifact's logits are to those of torch on the same weights.

Two comparisons on one probe (a few fixed token sequences): against the variant's own weights, dequantized, in
torch (is the compiled code right?), and against the fp32 checkpoint in torch (what did the recipe cost?).
"""

from __future__ import annotations

from registry.digest import Digest
from registry.value import Value


class Parity(Value):
    """Numbers of one comparison, and whether they are within the recipe's bound."""

    max_abs: float
    """Largest |logit − reference logit| against the variant's weights in torch."""
    rms: float
    """Root mean square of the same difference."""
    kl: float
    """Mean over positions of KL(fp32 checkpoint ‖ artifact), in nats."""
    kl_variant: float
    """Mean over positions of KL(variant's weights in torch ‖ artifact), in nats."""
    greedy_agreement: float
    """Share of positions whose most likely token is the fp32 checkpoint's."""
    positions: int
    probe: Digest
    """Digest of the probe's token ids."""
    within: bool
    """Whether the bounds of the recipe hold."""
    reason: str
    """One sentence with the numbers and the bound."""
