from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.checkpoint import prompt_tokens
from benchmarks.engines.interface import EngineSpec
from benchmarks.overhead import OverheadLoad, measure_overhead
from benchmarks.products import plain_directory
from benchmarks.rounds import Panel, RoundsPlan, agreement, measure_panel, ratio
from benchmarks.turn import AskBatch, AskDecode, AskPrefill
from benchmarks.worker import Worker
from registry.errors import EvaluationError
from tests.benchmarks.tiny import SHAPE, Built

PLAN = RoundsPlan(prompt=tuple(prompt_tokens(SHAPE, count=12)), blocks=2, steps=2, rounds=2)
TIMES = st.lists(st.floats(0.1, 1e4), min_size=1, max_size=9)


def spec(name: str, kind: str, path: Path) -> EngineSpec:
    return EngineSpec.model_validate(
        {"name": name, "kind": kind, "path": path, "weights": "fp32", "exact": True}
    )


def test_engines_side_by_side_give_the_same_output_and_all_numbers(built: Built):
    panel = Panel(
        name="float32",
        engines=(
            spec("plain", "onnxruntime", plain_directory(built.cache)),
            spec("torch", "torch", built.checkpoint),
            spec("rung", "rung", built.bundle),
            spec("missing", "rung", built.cache / "nowhere"),
        ),
    )

    plain, torch, rung, missing = measure_panel(panel, PLAN, threads=1)

    assert plain.tokens == torch.tokens == rung.tokens
    assert len(set(plain.tokens)) > 1
    for measured in (plain, torch, rung):
        assert measured.error is None
        assert len(measured.prefill_ms) == PLAN.rounds
        assert len(measured.decode_ms) == PLAN.rounds * PLAN.blocks
        assert len(measured.tokens) == PLAN.tokens
        assert min(*measured.prefill_ms, *measured.decode_ms) > 0
        assert 0 < measured.cores < 1.5
        assert measured.memory is not None
        assert (
            0
            < measured.memory.anonymous_bytes
            <= measured.memory.resident_bytes
            <= measured.memory.peak_bytes
        )
    assert missing.error is not None
    assert "nowhere" in missing.error
    assert missing.tokens == ()


def test_a_batch_gives_each_sequence_what_it_gets_alone(built: Built):
    prompts = tuple(tuple(prompt_tokens(SHAPE, count=9, seed=seed)) for seed in range(3))
    with Worker(spec("rung", "rung", built.bundle), threads=1, capacity=32) as worker:
        together = worker.batch(AskBatch(prompts=prompts, tokens=5)).tokens
        alone = tuple(
            worker.turn(AskPrefill(prompt=prompt)).tokens + worker.turn(AskDecode(steps=4)).tokens
            for prompt in prompts
        )

    assert together == alone


def test_a_worker_that_is_killed_is_an_error_with_the_engines_name(built: Built):
    with Worker(spec("rung", "rung", built.bundle), threads=1, capacity=32) as worker:
        os.kill(worker.process_id, signal.SIGKILL)

        with pytest.raises(EvaluationError, match=r"`rung` crashed"):
            worker.turn(AskPrefill(prompt=(1, 2, 3)))


def test_an_engine_of_one_sequence_refuses_a_batch(built: Built):
    with (
        Worker(spec("plain", "onnxruntime", plain_directory(built.cache)), threads=1, capacity=8) as worker,
        pytest.raises(EvaluationError, match="takes one sequence"),
    ):
        worker.batch(AskBatch(prompts=((1, 2),), tokens=1))


def test_the_server_gives_the_tokens_of_the_bare_session(built: Built):
    load = OverheadLoad(shape=SHAPE, prompt_tokens=6, tokens=5, callers=(1, 3), rounds=1)

    served = measure_overhead(spec("rung", "rung", built.bundle), load, threads=1)

    assert served.error is None
    assert [(row.callers, row.mode) for row in served.rows] == [
        (1, "whole"), (1, "stream"), (3, "whole"), (3, "stream"),
    ]  # fmt: skip
    assert all(row.same_tokens for row in served.rows)
    assert served.memory is not None
    assert served.memory.peak_bytes > 0


def test_a_server_that_cannot_start_is_an_error(built: Built, tmp_path: Path):
    (tmp_path / "manifest.json").write_bytes((built.bundle / "manifest.json").read_bytes())
    load = OverheadLoad(shape=SHAPE, prompt_tokens=6, tokens=5, callers=(1,), rounds=1)

    served = measure_overhead(spec("rung", "rung", tmp_path), load, threads=1)

    assert served.rows == ()
    assert "`rung`" in (served.error or "")


@given(TIMES)
def test_an_engine_beside_itself_has_ratio_one(times: list[float]):
    found = ratio(times, times)

    assert found is not None
    assert found.low == found.median == found.high == 1


@given(TIMES, st.floats(0.5, 2), st.randoms())
def test_drift_of_the_machine_does_not_change_a_ratio(base: list[float], factor: float, draw):
    drift = [draw.uniform(0.5, 5) for _ in base]
    ours = [time * factor * d for time, d in zip(base, drift, strict=True)]

    found = ratio(ours, [time * d for time, d in zip(base, drift, strict=True)])

    assert found is not None
    assert found.median == pytest.approx(factor)


def test_a_ratio_of_nothing_is_none():
    assert ratio([], [1.0]) is None


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_agreement_counts_the_common_beginning(common: list[int], ours: list[int], theirs: list[int]):
    found = agreement([*common, 4, *ours], [*common, 5, *theirs])

    assert found == len(common)
