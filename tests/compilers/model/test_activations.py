"""Codes of static activations: zero is one of them, and values in range are off by half a step at most."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compilers.model.activations import CODES, steps_of

bounds = st.floats(-1e6, 1e6, width=32)


@given(bounds, bounds, st.floats(0, 1))
def test_values_within_a_range_are_rounded_by_half_a_step_at_most(
    first: float, second: float, share: float
) -> None:
    low, high = min(first, second, 0.0), max(first, second, 0.0)
    steps = steps_of(low, high)
    assert 0 <= steps.zero <= CODES
    assert steps.scale == float(np.float32(steps.scale)) > 0
    if high - low < 1e-20:
        return
    value = low + share * (high - low)
    code = float(np.clip(np.rint(value / steps.scale) + steps.zero, 0, CODES))
    assert abs((code - steps.zero) * steps.scale - value) <= 0.51 * steps.scale


def test_a_range_of_nothing_but_zeros_has_codes_too() -> None:
    assert steps_of(0.0, 0.0).scale == 1.0
    assert steps_of(0.0, 65535.0).scale == 1.0
    assert steps_of(-65535.0, 0.0).zero == CODES
