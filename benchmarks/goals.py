"""The performance goals, and whether a run meets them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, assert_never

from benchmarks.products import (
    BASE_TARGET,
    FLOAT_PANEL,
    GENAI,
    INT4_PANEL,
    LLAMA,
    PLAIN,
    THREADS_PANEL,
    TUNED,
    best_target,
    on_threads,
)
from benchmarks.rounds import EngineMeasurement, Ratio, ratio
from registry.host import Host
from registry.value import Value

NOISE = 1.03
"""A median ratio up to this is level if our engine was in front in a quarter of the rounds or blocks."""

DECODE_GAIN, PREFILL_GAIN = 1.3, 1.8
"""How many times as fast as llama.cpp's Q4_0 the best 4-bit artifact is to be, at no worse divergence."""
THREAD_GAIN = 1.6
"""How many times as fast two threads are to read a prompt as one."""

Work = Literal["prefill", "decode", "KL to fp32"]
State = Literal["met", "level", "missed", "not measured"]


class Goal(Value):
    """One comparison and its result."""

    statement: str
    panel: str
    ours: str
    theirs: str
    work: Work
    threads: int
    at_most: float = 1.0
    """The ratio that is asked for."""
    required: bool
    """False: shown for completeness, no promise is made."""
    ratio: Ratio | None = None
    """Our time, or our divergence, over theirs."""
    state: State = "not measured"


def judge_goals(
    measurements: Sequence[EngineMeasurement], *, host: Host, threads: Sequence[int]
) -> list[Goal]:
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
        goals += _int4_goals(f"rung tvm w4g32-rtn ({best})", threads=count)
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
    if set(threads) >= {1, 2}:
        ours = f"rung tvm w4g32-rtn ({best})"
        goals.append(
            Goal(
                statement=f"a second thread reads prompts at least {THREAD_GAIN} times as fast",
                panel=THREADS_PANEL,
                ours=on_threads(ours, 2),
                theirs=on_threads(ours, 1),
                work="prefill",
                threads=2,
                at_most=1 / THREAD_GAIN,
                required=True,
            )
        )
    return [_judge(goal, measurements) for goal in goals]


def _int4_goals(ours: str, *, threads: int) -> list[Goal]:
    """The best 4-bit artifact against llama.cpp and against ONNX Runtime."""
    llama, ort = f"{LLAMA} Q4_0", "rung onnxruntime w4g32-rtn"
    asked: list[tuple[Work, str, float]] = [
        ("decode", llama, 1 / DECODE_GAIN),
        ("prefill", llama, 1 / PREFILL_GAIN),
        ("decode", ort, 1.0),
    ]
    if threads == 1:  # where divergences are measured
        asked.append(("KL to fp32", llama, 1.0))
    return [
        Goal(
            statement=f"int4 {work} at most {bound:.2f} of {theirs}'s",
            panel=INT4_PANEL,
            ours=ours,
            theirs=theirs,
            work=work,
            threads=threads,
            at_most=bound,
            required=True,
        )
        for work, theirs, bound in asked
    ]


def _judge(goal: Goal, measurements: Sequence[EngineMeasurement]) -> Goal:
    known = {m.engine: m for m in measurements if m.panel == goal.panel and m.threads == goal.threads}
    ours, theirs = known.get(goal.ours), known.get(goal.theirs)
    if ours is None or theirs is None:
        return goal
    found = _ratio(goal.work, ours, theirs)
    if found is None:
        return goal
    return goal.model_copy(update={"ratio": found, "state": state_of(found, at_most=goal.at_most)})


def _ratio(work: Work, ours: EngineMeasurement, theirs: EngineMeasurement) -> Ratio | None:
    match work:
        case "decode":
            return ratio(ours.decode_ms, theirs.decode_ms)
        case "prefill":
            return ratio(ours.prefill_ms, theirs.prefill_ms)
        case "KL to fp32":
            if ours.divergence is None or theirs.divergence is None:
                return None
            return ratio([ours.divergence], [theirs.divergence])
        case _:
            assert_never(work)


def state_of(found: Ratio, *, at_most: float = 1.0) -> State:
    """Whether a ratio meets the goal, is level within the noise of this run, or misses it."""
    if found.median <= at_most:
        return "met"
    return "level" if found.median <= NOISE * at_most and found.low <= at_most else "missed"
