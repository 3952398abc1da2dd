"""Measuring parity: an artifact's logits on the probe against torch's, and whether they are within the bound.

Apart from the probe itself (`probe.py`), because only this asks what arithmetic a backend has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compilers.backend import find_backend
from compilers.check.bounds import FLOAT_BOUND, half_rms, integer_share
from compilers.check.float_error import FloatError, float_figures, worst
from compilers.check.parity import Parity
from compilers.check.probe import positions_of, reference_logits, stepwise_logits
from compilers.runtime import FloatArray, Session
from registry.digest import digest_value
from registry.errors import BuildError
from registry.recipe import Recipe


def measure_parity(
    session: Session,
    *,
    checkpoint_logits: FloatArray,
    variant_logits: FloatArray,
    error: FloatError,
    probe: Sequence[Sequence[int]],
    recipe: Recipe,
    toolchain: str,
) -> Parity:
    """Hold a session's logits against torch's.

    Args:
        session: The artifact.
        checkpoint_logits: Of the checkpoint in torch, float64 (`compilers/check/torch_precision.py`).
        variant_logits: The same with the variant's weights.
        error: How far torch's float32 is from these for the checkpoint.
        probe: The sequences.
        recipe: The variant's.
        toolchain: The artifact's.

    Raises:
        BuildError: The references are not of this probe.
    """
    positions = positions_of(probe)
    shape = (positions, session.vocab_size)
    of_error = (len(error.positions), len(error.tokens))
    if not checkpoint_logits.shape == variant_logits.shape == of_error == shape:
        raise BuildError(
            f"reference logits of shape {checkpoint_logits.shape} and {variant_logits.shape}, with errors of "
            f"{of_error}, for a probe of {shape}",
            hint="make references and probe anew from the same checkpoint",
        )
    runs = (reference_logits(session, probe), stepwise_logits(session, probe))
    if not all(bool(np.isfinite(run).all()) for run in runs):
        return _undefined(probe, positions)
    differences = [run.astype(np.float64) - variant_logits for run in runs]
    kl_variant = max(float(kl_divergence(variant_logits, run).mean()) for run in runs)
    kl_quantized = float(kl_divergence(checkpoint_logits, variant_logits).mean())
    max_abs = max(float(np.abs(difference).max()) for difference in differences)
    backend = find_backend(toolchain)
    arithmetic = backend.arithmetic_of(recipe)
    limit = FLOAT_BOUND.times(backend.float_factor)
    figures = worst([float_figures(run, exact=variant_logits, error=error) for run in runs])
    exact = figures.within(limit)
    rms = max(float(np.sqrt(np.mean(difference**2))) for difference in differences)
    share = integer_share(recipe, arithmetic)
    half = half_rms(arithmetic)
    spread = float(variant_logits.std())
    agreement = min(float(np.mean(run.argmax(-1) == variant_logits.argmax(-1))) for run in runs)
    within = (
        exact
        or (share is not None and kl_variant <= share * kl_quantized)
        or (half is not None and rms <= half * spread)
    )
    reason = (
        f"the error is {figures} of torch's float32 ({error.largest:.2g} at most), the bound is {limit}; "
        f"largest difference {max_abs:.2g}, KL {kl_variant:.2g}, agreement with torch {agreement:.2%}"
    )
    if share is not None and not exact:
        reason = (
            f"KL to the variant in torch is {kl_variant:.2g} nats with integer activations, "
            f"the bound is {share:g} × "
            f"the {kl_quantized:.2g} nats that quantization cost"
        )
    elif half is not None and not exact:
        reason = (
            f"the root mean square difference from torch is {rms:.2g} with float16 arithmetic, "
            f"the bound is {half:g} × the logits' spread of {spread:.2g}"
        )
    return Parity(
        max_abs=max_abs,
        rms=rms,
        kl=max(float(kl_divergence(checkpoint_logits, run).mean()) for run in runs),
        kl_variant=kl_variant,
        greedy_agreement=float(np.mean(runs[0].argmax(-1) == checkpoint_logits.argmax(-1))),
        positions=positions,
        probe=digest_value([list(sequence) for sequence in probe]),
        within=within,
        reason=reason,
    )


def kl_divergence(reference: FloatArray, other: FloatArray) -> NDArray[np.float64]:
    """KL(reference ‖ other) of each position, in nats, from logits [positions, vocab]."""
    p, q = _log_probabilities(reference), _log_probabilities(other)
    return np.asarray(np.maximum(np.sum(np.exp(p) * (p - q), axis=-1), 0.0))


def _log_probabilities(logits: FloatArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def _undefined(probe: Sequence[Sequence[int]], positions: int) -> Parity:
    """Parity of logits that are no numbers: as far as can be, in numbers that JSON can hold."""
    worst = float(np.finfo(np.float32).max)
    return Parity(
        max_abs=worst,
        rms=worst,
        kl=worst,
        kl_variant=worst,
        greedy_agreement=0.0,
        positions=positions,
        probe=digest_value([list(sequence) for sequence in probe]),
        within=False,
        reason="the artifact's logits hold NaN or infinity",
    )
