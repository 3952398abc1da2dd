from __future__ import annotations

import pytest

from benchmarks.goals import judge_goals, state_of
from benchmarks.page import speed_table
from benchmarks.products import FLOAT_PANEL, GENAI, INT4_PANEL, PLAIN, all_steps, artifacts, best_target
from benchmarks.rounds import Measurement, Ratio
from registry.target import Host, targets

OLD = Host(architecture="x86_64", features=targets()["cpu-x86-64-v3"].features, memory_bytes=2**34, cores=2)
NEW = OLD.model_copy(update={"features": targets()["cpu-x86-64-v4-vnni"].features})


def measured(engine: str, *, panel: str, decode: float, prefill: float, threads: int = 1) -> Measurement:
    return Measurement(
        panel=panel,
        engine=engine,
        weights="fp32",
        exact=True,
        threads=threads,
        decode_ms=(decode, 2 * decode),
        prefill_ms=(prefill, 2 * prefill),
    )


@pytest.mark.parametrize(
    ("ratio", "state"),
    [
        (Ratio(median=0.9, low=0.8, high=1.2), "met"),
        (Ratio(median=1.0, low=1.0, high=1.0), "met"),
        (Ratio(median=1.02, low=0.99, high=1.1), "level"),
        (Ratio(median=1.02, low=1.01, high=1.1), "missed"),
        (Ratio(median=1.2, low=0.7, high=1.3), "missed"),
    ],
)
def test_a_goal_is_met_level_or_missed(ratio: Ratio, state: str):
    assert state_of(ratio) == state


def test_goals_are_held_against_the_named_alternative_of_the_same_panel_and_threads():
    ours = measured("rung onnxruntime w4g32-rtn", panel=INT4_PANEL, decode=9, prefill=50)
    theirs = measured(f"{GENAI} int4", panel=INT4_PANEL, decode=10, prefill=40)
    elsewhere = measured(f"{GENAI} int4", panel=INT4_PANEL, decode=1, prefill=1, threads=2)

    goals = judge_goals([theirs, elsewhere, ours], host=OLD, threads=(1,))

    (int4,) = [goal for goal in goals if goal.panel == INT4_PANEL]
    assert int4.state == "met"
    assert int4.ratio is not None
    assert int4.ratio.median == pytest.approx(0.9)


def test_a_goal_without_numbers_says_so():
    goals = judge_goals([], host=OLD, threads=(1, 2))

    assert {goal.state for goal in goals} == {"not measured"}
    assert {goal.threads for goal in goals} == {1, 2}


def test_the_promise_for_tvm_is_on_one_thread_and_the_best_target():
    goals = [goal for goal in judge_goals([], host=NEW, threads=(1, 2)) if goal.panel == FLOAT_PANEL]

    required = [goal for goal in goals if goal.required]
    assert {(goal.threads, goal.ours) for goal in required} == {(1, "rung tvm fp32 (cpu-x86-64-v4-vnni)")}
    assert {goal.work for goal in required} == {"prefill", "decode"}


def test_a_host_is_given_the_best_target_that_it_has_all_of():
    assert best_target(OLD) == "cpu-x86-64-v3"
    assert best_target(NEW) == "cpu-x86-64-v4-vnni"
    assert best_target(OLD.model_copy(update={"architecture": "aarch64", "features": ()})) == "cpu-x86-64-v3"


def test_no_step_is_planned_twice():
    for host in (OLD, NEW):
        names = [step.name for step in all_steps(host)]
        assert len(names) == len(set(names))
        assert artifacts(FLOAT_PANEL, host=host)


def test_the_table_has_ratios_to_its_first_row_and_keeps_failures():
    base = measured(PLAIN, panel=FLOAT_PANEL, decode=10, prefill=100)
    fast = measured("rung tvm", panel=FLOAT_PANEL, decode=5, prefill=150)
    failed = Measurement(
        panel=FLOAT_PANEL, engine="broken", weights="fp32", exact=True, threads=1, error="it | fell"
    )

    lines = speed_table([base, fast, failed]).splitlines()

    assert "**1.00** (1.00–1.00)" in lines[2]
    assert "**0.50** (0.50–0.50)" in lines[3]
    assert "**1.50** (1.50–1.50)" in lines[3]
    assert "failed: it / fell" in lines[4]
    assert len({line.count("|") for line in lines}) == 1
