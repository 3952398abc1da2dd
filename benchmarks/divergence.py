"""KL divergence of an engine's distributions from the reference's, in nats per position.

Speed at few bits is worth little if the outputs change. Texts are random tokens, so that no engine is
favoured; most of a text is read at once and its end token by token, so that prefill and decode kernels are
both compared with the reference.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.checkpoint import BenchmarkShape, prompt_tokens
from benchmarks.engines.interface import EngineSpec
from benchmarks.turn import AskLogits
from benchmarks.worker import Worker
from registry.errors import EvaluationError

TEXTS = 3
TEXT_TOKENS = 128
SINGLY = 16

FloatArray = NDArray[np.float32]


class Reference:
    """The logits that others are compared with."""

    def __init__(self, spec: EngineSpec, *, shape: BenchmarkShape) -> None:
        """Ask an engine for them.

        Raises:
            EvaluationError: It cannot be loaded, or tells no logits.
        """
        self._texts = tuple(tuple(prompt_tokens(shape, count=TEXT_TOKENS, seed=1 + i)) for i in range(TEXTS))
        with Worker(spec, threads=1, capacity=TEXT_TOKENS) as worker:
            found = self._logits(worker)
        if found is None:
            raise EvaluationError(f"`{spec.name}` tells no logits", hint="take another reference")
        self._logits_of_reference = found

    def divergence(self, worker: Worker) -> float | None:
        """Mean KL(reference ‖ engine); None if the engine gives no logits.

        Raises:
            EvaluationError: The engine failed.
        """
        found = self._logits(worker)
        return None if found is None else mean_divergence(self._logits_of_reference, found)

    def _logits(self, worker: Worker) -> FloatArray | None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "logits.npy"
            answer = worker.logits(AskLogits(texts=self._texts, singly=SINGLY, out=out))
            return np.load(out) if answer.written else None


def mean_divergence(reference: FloatArray, logits: FloatArray) -> float:
    """Mean over positions of KL(reference ‖ other), both logits [positions, vocabulary]."""
    return float(np.mean([_divergence(ours, theirs) for ours, theirs in zip(reference, logits, strict=True)]))


def _divergence(reference: FloatArray, logits: FloatArray) -> float:
    ours, theirs = _log_softmax(reference), _log_softmax(logits)
    return float((np.exp(ours) * (ours - theirs)).sum())


def _log_softmax(logits: FloatArray) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))
