"""What artifacts of a checkpoint are held against: torch's logits on a probe, and how exact they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compilers.check.float_error import FloatError
from compilers.check.measure import measure_parity
from compilers.check.parity import Parity
from compilers.check.torch_precision import exact_logits, torch_error
from compilers.model.torch_reference import TorchSession
from compilers.runtime import FloatArray, Session
from registry.recipe import Recipe

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class References:
    """Of one checkpoint and one variant of it."""

    probe: Sequence[Sequence[int]]
    checkpoint_logits: FloatArray
    variant_logits: FloatArray
    error: FloatError

    def parity(self, session: Session, *, recipe: Recipe, toolchain: str) -> Parity:
        """A session held against them."""
        return measure_parity(
            session,
            checkpoint_logits=self.checkpoint_logits,
            variant_logits=self.variant_logits,
            error=self.error,
            probe=self.probe,
            recipe=recipe,
            toolchain=toolchain,
        )


def references_of(
    checkpoint: Path, probe: Sequence[Sequence[int]], *, weights: Weights | None = None
) -> References:
    """Run torch on a checkpoint, and on a variant's weights."""
    session = TorchSession(checkpoint)
    exact = exact_logits(session, probe)
    variant = exact if weights is None else exact_logits(TorchSession(checkpoint, weights=weights), probe)
    return References(probe, exact, variant, torch_error(session, probe, exact=exact))
