"""The goals that the numbers are held against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from benchmarks.products import BASE_TARGET, FLOAT_PANEL, GENAI, INT4_PANEL, PLAIN, TUNED, best_target
from benchmarks.rounds import Measurement, Ratio, ratio
from registry.target import Host
from registry.value import Value

NOISE = 1.03
"""A median ratio up to this is level if our engine was in front in a quarter of the rounds or blocks."""

Work = Literal["prefill", "decode"]
State = Literal["met", "level", "missed", "not measured"]


class Goal(Value):
    """One comparison and what came of it."""

    statement: str
    panel: str
    ours: str
    theirs: str
    work: Work
    threads: int
    required: bool
    """False: shown for completeness, no promise is made."""
    ratio: Ratio | None = None
    """Our time over theirs."""
    state: State = "not measured"


def judge_goals(measurements: Sequence[Measurement], *, host: Host, threads: Sequence[int]) -> list[Goal]:
    """All goals for the thread counts that were measured."""
    best = best_target(host)
    goals: list[Goal] = []
    for count in threads:
        goals.append(
            Goal(
                statement="int4 decode at least equal to onnxruntime-genai's",
                panel=INT4_PANEL,
                ours="rung onnxruntime w4g32-rtn",
                theirs=f"{GENAI} int4",
                work="decode",
                threads=count,
                required=True,
            )
        )
        for theirs in (PLAIN, TUNED):
            for target in dict.fromkeys((best, BASE_TARGET)):
                for work in ("decode", "prefill"):
                    goals.append(
                        Goal(
                            statement=f"tvm fp32 {work} at least level with ORT fp32",
                            panel=FLOAT_PANEL,
                            ours=f"rung tvm fp32 ({target})",
                            theirs=theirs,
                            work=work,
                            threads=count,
                            required=count == 1 and target == best,
                        )
                    )
    return [_judge(goal, measurements) for goal in goals]


def _judge(goal: Goal, measurements: Sequence[Measurement]) -> Goal:
    known = {m.engine: m for m in measurements if m.panel == goal.panel and m.threads == goal.threads}
    ours, theirs = known.get(goal.ours), known.get(goal.theirs)
    if ours is None or theirs is None:
        return goal
    found = (
        ratio(ours.decode_ms, theirs.decode_ms)
        if goal.work == "decode"
        else ratio(ours.prefill_ms, theirs.prefill_ms)
    )
    return goal if found is None else goal.model_copy(update={"ratio": found, "state": state_of(found)})


def state_of(found: Ratio) -> State:
    """Whether a ratio of our time to theirs is in front, level within the noise of this run, or behind."""
    if found.median <= 1:
        return "met"
    return "level" if found.median <= NOISE and found.low <= 1 else "missed"
