from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from benchmarks.divergence import Reference, mean_divergence
from benchmarks.engines.interface import EngineSpec, LogitsEngine, make_engine
from benchmarks.gguf import GgufType, make_gguf
from benchmarks.products import artifact_spec, reference_spec
from benchmarks.worker import Worker
from tests.benchmarks.tiny import LOWERED, SHAPE, Built


def test_the_divergence_is_the_mean_over_positions_of_the_relative_entropy():
    reference = np.log(np.array([[0.5, 0.5], [0.25, 0.75]], np.float32)) + 3  # logits have any offset
    other = np.log(np.array([[0.25, 0.75], [0.25, 0.75]], np.float32)) - 2
    expected = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2

    assert mean_divergence(reference, other) == pytest.approx(expected, rel=1e-5)
    assert mean_divergence(reference, reference) == 0


def test_an_artifact_with_the_same_weights_has_no_divergence_from_torch(built: Built):
    reference = Reference(reference_spec(built.checkpoint), shape=SHAPE)

    with Worker(artifact_spec(LOWERED, built.bundle), threads=1, capacity=128) as worker:
        found = reference.divergence(worker)

    assert found is not None
    assert abs(found) < 1e-6


@pytest.mark.parametrize("form", ["F32", "Q8_0"])
def test_llama_cpp_computes_the_network_of_the_checkpoint(form: GgufType, built: Built, tmp_path: Path):
    pytest.importorskip("gguf", reason="`gguf` is not installed")
    pytest.importorskip("llama_cpp", reason="`llama-cpp-python` is not installed")
    make_gguf(built.checkpoint, form, out=tmp_path)
    spec = EngineSpec(name="llama.cpp", kind="llama-cpp", path=tmp_path, weights=form, exact=False)
    tokens = [int(token) for token in np.random.default_rng(1).integers(1, SHAPE.vocab_size, 40)]

    engines = [make_engine(each, threads=1, capacity=64) for each in (reference_spec(built.checkpoint), spec)]
    ours, theirs = (cast("LogitsEngine", engine).logits(tokens, singly=5) for engine in engines)

    # Its cache holds keys and values in 16 bits.
    assert mean_divergence(ours, theirs) < (1e-5 if form == "F32" else 1e-2)
    engines[1].reset()
    assert engines[1].prefill(tokens) == int(theirs[-1].argmax())
