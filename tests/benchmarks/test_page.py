from __future__ import annotations

import os
from dataclasses import replace

import pytest

from benchmarks.goals import judge_goals, state_of
from benchmarks.machine import Quiet, Watch, this_machine
from benchmarks.overhead import OverheadLoad, Served
from benchmarks.page import render, speed_table
from benchmarks.products import (
    FLOAT_PANEL,
    GENAI,
    INT4_PANEL,
    LLAMA,
    PLAIN,
    THREADS_PANEL,
    all_steps,
    artifacts,
    best_target,
    on_threads,
)
from benchmarks.report import BenchmarkReport
from benchmarks.rounds import EngineMeasurement, Ratio, RoundsPlan
from benchmarks.run import problems_of
from registry.host import Host
from registry.target import targets
from tests.benchmarks.tiny import SHAPE, Built

OLD = Host(architecture="x86_64", features=targets()["cpu-x86-64-v3"].features, memory_bytes=2**34, cores=2)
NEW = OLD.model_copy(update={"features": targets()["cpu-x86-64-v4-vnni"].features})


def measured(
    engine: str, *, panel: str, decode: float, prefill: float, threads: int = 1
) -> EngineMeasurement:
    return EngineMeasurement(
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

    (int4,) = [goal for goal in goals if goal.theirs == f"{GENAI} int4"]
    assert int4.state == "met"
    assert int4.ratio is not None
    assert int4.ratio.median == pytest.approx(0.9)


def test_a_goal_may_ask_for_more_than_to_be_level():
    assert state_of(Ratio(median=0.9, low=0.8, high=1.0), at_most=0.5) == "missed"
    assert state_of(Ratio(median=0.51, low=0.49, high=0.6), at_most=0.5) == "level"
    assert state_of(Ratio(median=0.5, low=0.5, high=0.5), at_most=0.5) == "met"


def test_the_best_4_bit_artifact_is_held_against_llama_cpp_in_speed_and_divergence():
    name = "rung tvm w4g32-rtn (cpu-x86-64-v4-vnni)"
    ours = measured(name, panel=INT4_PANEL, decode=7, prefill=60)
    theirs = measured(f"{LLAMA} Q4_0", panel=INT4_PANEL, decode=10, prefill=100)
    ours, theirs = (m.model_copy(update={"divergence": kl}) for m, kl in ((ours, 0.09), (theirs, 0.1)))

    goals = judge_goals([theirs, ours], host=NEW, threads=(1,))

    found = {goal.work: goal.state for goal in goals if goal.theirs == theirs.engine and goal.ours == name}
    assert found == {"decode": "met", "prefill": "missed", "KL to fp32": "met"}


def test_the_gain_of_a_second_thread_is_asked_for_where_both_were_measured():
    assert not [goal for goal in judge_goals([], host=NEW, threads=(1,)) if goal.panel == THREADS_PANEL]
    (goal,) = [goal for goal in judge_goals([], host=NEW, threads=(1, 2)) if goal.panel == THREADS_PANEL]
    name = "rung tvm w4g32-rtn (cpu-x86-64-v4-vnni)"
    assert goal.at_most == pytest.approx(1 / 1.6)
    assert (goal.ours, goal.theirs) == (on_threads(name, 2), on_threads(name, 1))


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


def test_one_panel_asks_for_its_own_artifacts_alone():
    names = {step.name for step in all_steps(NEW, panels=(INT4_PANEL,))}

    assert "lower tvm w4g32-rtn cpu-x86-64-v4-vnni" in names
    assert {"quantize fp32", "llama-quantize Q4_0"} <= names  # what the alternatives read
    assert not any("w8a8" in name for name in names)


def test_the_table_has_ratios_to_its_first_row_and_keeps_failures():
    base = measured(PLAIN, panel=FLOAT_PANEL, decode=10, prefill=100)
    fast = measured("rung tvm", panel=FLOAT_PANEL, decode=5, prefill=150)
    failed = EngineMeasurement(
        panel=FLOAT_PANEL, engine="broken", weights="fp32", exact=True, threads=1, error="it | fell"
    )

    lines = speed_table([base, fast, failed]).splitlines()

    assert "**1.00** (1.00–1.00)" in lines[2]
    assert "**0.50** (0.50–0.50)" in lines[3]
    assert "**1.50** (1.50–1.50)" in lines[3]
    assert "failed: it / fell" in lines[4]
    assert len({line.count("|") for line in lines}) == 1


def test_a_run_beside_other_work_is_called_noisy():
    assert Quiet(load_at_start=0.1, other_share=0.01, steal_share=0.01).is_quiet
    assert not Quiet(load_at_start=0.1, other_share=0.01, steal_share=0.2).is_quiet
    assert not Quiet(load_at_start=0.1, other_share=0.2, steal_share=0.01).is_quiet
    assert not Quiet(load_at_start=0.1, other_share=0.03, steal_share=0.03).is_quiet


def test_the_watch_sees_what_others_use_and_not_what_we_use():
    now = Watch.start()
    begun = replace(now, at_s=now.at_s - 100)
    cores = os.cpu_count() or 1

    quiet = begun.stop()
    others = replace(begun, busy_s=now.busy_s - 10).stop()
    ours = replace(begun, busy_s=now.busy_s - 10, own_s=now.own_s - 10).stop()
    stolen = replace(begun, steal_s=now.steal_s - 10).stop()

    assert others.other_share - quiet.other_share == pytest.approx(10 / (100 * cores), abs=0.01)
    assert ours.other_share == pytest.approx(quiet.other_share, abs=0.01)
    assert stolen.steal_share - quiet.steal_share == pytest.approx(10 / (100 * cores), abs=0.01)


def test_the_page_of_a_run_says_everything_that_was_found(built: Built):
    base = measured(PLAIN, panel=FLOAT_PANEL, decode=10, prefill=100).model_copy(update={"tokens": (1, 2, 3)})
    other = measured("rung tvm", panel=FLOAT_PANEL, decode=5, prefill=50).model_copy(
        update={"tokens": (1, 2, 4)}
    )
    report = BenchmarkReport(
        machine=this_machine(),
        quiet=Quiet(load_at_start=3, other_share=0.5, steal_share=0),
        seconds=1,
        checkpoint=built.facts,
        plan=RoundsPlan(prompt=(1, 2), steps=2),
        steps=tuple(built.records.values()),
        measurements=(base, other),
        load=OverheadLoad(shape=SHAPE),
        served=Served(error="the server did not start"),
        goals=tuple(judge_goals([base, other], host=OLD, threads=(1,))),
    )

    page = render(report)

    assert BenchmarkReport.model_validate_json(report.model_dump_json()) == report
    assert this_machine().chip in page
    assert "not a quiet machine" in page
    assert "2 of 3" in page
    assert "Not measured: the server did not start" in page
    assert all(step in page for step in built.records)
    assert problems_of(report) == [
        "server: the server did not start",
        f"rung tvm, 1 thread(s): agrees with {PLAIN} in the first 2 of 3 tokens only",
    ]
