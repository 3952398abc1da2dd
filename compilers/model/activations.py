"""Static 16-bit activations: from the range of a tensor to the codes that stand for its values.

Shared by all who must agree on it to the last bit: the quantizer, the reference in torch, and the toolchains
that write QuantizeLinear nodes (https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

CODES: Final = 65535
"""The largest code of uint16; the least is 0."""
HEADROOM: Final = 1.25
"""Ranges are made wider than what calibration saw: a value outside is clipped, and of 16 bits a third of
one is cheap."""
_SMALLEST: Final = float(np.finfo(np.float32).tiny) * 1e4

INPUT: Final = "input_range"
OUTPUT: Final = "output_range"


@dataclass(frozen=True, slots=True)
class Steps:
    """How uint16 codes stand for floats: (code − zero) · scale."""

    scale: float
    """A float32 number."""
    zero: int
    """The code of 0.0."""


def steps_of(low: float, high: float) -> Steps:
    """The codes of a range; it is widened to hold 0, which has a code of its own."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / CODES))
    if scale < _SMALLEST:  # nothing but zeros was seen
        return Steps(scale=1.0, zero=0)
    return Steps(scale=scale, zero=int(np.clip(np.rint(-low / scale), 0, CODES)))
