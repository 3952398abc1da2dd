"""The probe stage: the logits that torch computes for a checkpoint on a fixed set of tokens."""

from __future__ import annotations

from registry.digest import Digest
from registry.value import Value


class ProbeOutput(Value):
    """What torch says with a checkpoint's or a variant's weights on the probe."""

    tokens: Digest
    """Blob: JSON list of token sequences; depends on the calibration set and the vocabulary alone."""
    logits: Digest
    """Blob: float32 `.npy` of shape [positions, vocab], the probe's sequences one after the other."""
