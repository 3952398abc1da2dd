"""The probe's values: token sequences, and the logits that torch computes for them."""

from __future__ import annotations

from registry.digest import Digest
from registry.value import Value


class ProbeOutput(Value):
    """The probe, and the logits that torch computes for it with a checkpoint's or a variant's weights."""

    tokens: Digest
    """Blob: JSON list of token sequences; depends on the calibration set and the vocabulary alone."""
    logits: Digest
    """Blob: float32 `.npy` of shape [positions, vocab], the probe's sequences one after the other."""
    float_error: Digest | None = None
    """Blob: how far torch's float32 is from its float64 on the probe (`compilers/check/float_error.py`). A
    checkpoint's; None: a variant's, which is judged by its checkpoint's."""
