"""Float parity: an artifact's error in units of torch's own, position by position and token by token.

Float32 rounds, and how much of it reaches the logits depends on the checkpoint: 1e-6 on a small random one,
1e-4 on SmolLM2, whose first position has activations in the thousands, and 1e-3 on the same model with six
layers taken out. No fixed number tells rounding from damage on all of them. So torch itself is measured: its
float32 against its float64 on the probe, several times over with the sums in different orders
(`compilers/check/torch_precision.py`). An artifact's error is divided by that, and four figures are held to a
bound (`FloatBound`): the typical position, all positions together, the worst position, and the worst token of
the vocabulary. The first two are steady from build to build. The others find what is wrong in one place only.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from compilers.runtime import FloatArray
from registry.errors import CorruptError

FLOOR: Final = 2.0**-24
"""Share of a position's logits that float32 cannot be held below: half a unit in the last place."""


@dataclass(frozen=True, slots=True)
class FloatError:
    """How far torch's float32 is from its float64 on a probe."""

    positions: NDArray[np.float32]
    """Per position, the root mean square over tokens and runs."""
    tokens: NDArray[np.float32]
    """Per token, the root mean square over positions and runs of the error in units of `positions`."""
    largest: float
    """The largest difference of a single logit."""

    def to_bytes(self) -> bytes:
        """As an `.npz` file; equal errors give equal bytes."""
        buffer = io.BytesIO()
        np.savez(buffer, positions=self.positions, tokens=self.tokens, largest=np.float64(self.largest))
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> FloatError:
        """What `to_bytes` gave.

        Raises:
            CorruptError: It is something else.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as found:
                return cls(
                    positions=found["positions"], tokens=found["tokens"], largest=float(found["largest"])
                )
        except (ValueError, KeyError, OSError, TypeError) as error:
            raise CorruptError(
                f"torch's error on the probe cannot be read: {error}", hint="run `rung build` again"
            ) from error


@dataclass(frozen=True, slots=True)
class FloatFigures:
    """An artifact's error in units of torch's."""

    typical: float
    """Geometric mean over positions."""
    overall: float
    """Root mean square over positions."""
    position: float
    """The largest of a position."""
    token: float
    """The largest of a token."""

    def within(self, bound: FloatFigures) -> bool:
        """Whether no figure is larger than the bound's."""
        return (
            self.typical <= bound.typical
            and self.overall <= bound.overall
            and self.position <= bound.position
            and self.token <= bound.token
        )

    def times(self, factor: float) -> FloatFigures:
        """All figures times a factor."""
        return FloatFigures(
            typical=self.typical * factor,
            overall=self.overall * factor,
            position=self.position * factor,
            token=self.token * factor,
        )

    def __str__(self) -> str:
        return (
            f"{self.typical:.2g} × at the typical position, {self.overall:.2g} × overall, "
            f"{self.position:.2g} × at the worst position, {self.token:.2g} × at the worst token"
        )


def float_error(runs: Sequence[FloatArray], *, exact: FloatArray) -> FloatError:
    """The error of torch.

    Args:
        runs: Logits [positions, vocab] of torch in float32, each with its sums in another order.
        exact: Those of float64.
    """
    squares = np.mean([np.mean(_difference(run, exact) ** 2, axis=1) for run in runs], axis=0)
    floor = FLOOR * np.sqrt(np.mean(exact.astype(np.float64) ** 2, axis=1))
    positions = np.maximum(np.sqrt(squares), np.maximum(floor, np.finfo(np.float32).tiny))
    scaled = [_difference(run, exact) / positions[:, None] for run in runs]
    tokens = np.sqrt(np.mean([np.mean(one**2, axis=0) for one in scaled], axis=0))
    return FloatError(
        positions=positions.astype(np.float32),
        tokens=np.maximum(tokens, 0.5).astype(np.float32),
        largest=max(float(np.abs(_difference(run, exact)).max()) for run in runs),
    )


def float_figures(run: FloatArray, *, exact: FloatArray, error: FloatError) -> FloatFigures:
    """An artifact's error in units of torch's.

    Args:
        run: The artifact's logits [positions, vocab].
        exact: Those of float64 with the artifact's weights.
        error: Torch's.
    """
    scaled = _difference(run, exact) / error.positions[:, None].astype(np.float64)
    ratios = np.sqrt(np.mean(scaled**2, axis=1))
    tokens = np.sqrt(np.mean(scaled**2, axis=0)) / error.tokens
    return FloatFigures(
        typical=float(np.exp(np.mean(np.log(np.maximum(ratios, 1e-9))))),
        overall=float(np.sqrt(np.mean(ratios**2))),
        position=float(ratios.max()),
        token=float(tokens.max()),
    )


def worst(figures: Sequence[FloatFigures]) -> FloatFigures:
    """The largest of each figure."""
    return FloatFigures(
        typical=max(one.typical for one in figures),
        overall=max(one.overall for one in figures),
        position=max(one.position for one in figures),
        token=max(one.token for one in figures),
    )


def _difference(run: FloatArray, exact: FloatArray) -> NDArray[np.float64]:
    return np.asarray(run.astype(np.float64) - exact)
