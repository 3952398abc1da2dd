"""The protocol: engines in turn, A B C A B C …, one at work at a time; ratios within a round.

A machine's speed drifts (clock, neighbours). An engine is therefore compared with the base of its panel
round by round, and the ratio that is reported is the median of those ratios, with their range.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Sequence

from benchmarks.engines.interface import EngineSpec
from benchmarks.turn import Ask, Memory, Turn
from benchmarks.worker import Worker
from registry.errors import EvaluationError
from registry.value import Value

WARM_UP_ROUNDS = 1


class Panel(Value):
    """Engines that are measured side by side; the first one is the base of their ratios."""

    name: str
    engines: tuple[EngineSpec, ...]


class Plan(Value):
    """What is asked in each turn."""

    prompt: tuple[int, ...]
    steps: int = 16
    """Tokens decoded after the prompt."""
    rounds: int = 5
    """Counted ones, after warm-up."""


class Measurement(Value):
    """One engine in one panel."""

    panel: str
    engine: str
    weights: str
    exact: bool
    threads: int
    version: str = ""
    load_s: float = 0.0
    """From process start to a loaded engine."""
    prefill_ms: tuple[float, ...] = ()
    """Per round: the whole prompt, logits of its last token."""
    decode_ms: tuple[float, ...] = ()
    """Per round: the median step."""
    cores: float = 0.0
    """Processor time per time: how many cores it kept busy."""
    tokens: tuple[int, ...] = ()
    """Its greedy output."""
    memory: Memory | None = None
    """After the last round."""
    error: str | None = None
    """Why there are no numbers."""


class Ratio(Value):
    """Time of an engine over time of the base in the same round: below 1 is faster than the base."""

    median: float
    low: float
    high: float


def measure_panel(panel: Panel, plan: Plan, *, threads: int) -> list[Measurement]:
    """All engines of a panel, in the panel's order; one that fails is a measurement with its error."""
    ask = Ask(prompt=plan.prompt, steps=plan.steps)
    errors: dict[str, str] = {}
    turns: dict[str, list[Turn]] = {spec.name: [] for spec in panel.engines}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for spec in panel.engines:
            print(f"{panel.name}, {threads} thread(s): loading {spec.name}", file=sys.stderr, flush=True)
            try:
                worker = Worker(spec, threads=threads, capacity=len(plan.prompt) + plan.steps + 1)
                workers[spec.name] = stack.enter_context(worker)
            except EvaluationError as error:
                errors[spec.name] = error.message
        for index in range(WARM_UP_ROUNDS + plan.rounds):
            print(f"{panel.name}, {threads} thread(s): round {index}", file=sys.stderr, flush=True)
            for name, worker in list(workers.items()):
                try:
                    turns[name].append(worker.turn(ask))
                except EvaluationError as error:
                    errors[name] = error.message
                    del workers[name]
        loaded = {name: worker.loaded for name, worker in workers.items()}
    results = []
    for spec in panel.engines:
        base = Measurement(
            panel=panel.name,
            engine=spec.name,
            weights=spec.weights,
            exact=spec.exact,
            threads=threads,
            error=errors.get(spec.name),
        )
        if spec.name in loaded:
            facts = {"version": loaded[spec.name].version, "load_s": loaded[spec.name].seconds}
            base = _summary(base.model_copy(update=facts), turns[spec.name])
        results.append(base)
    return results


def ratio(times: Sequence[float], base: Sequence[float]) -> Ratio | None:
    """Round by round, over the rounds that both have; None where there is none."""
    ratios = [ours / theirs for ours, theirs in zip(times, base, strict=False)]
    if not ratios:
        return None
    return Ratio(median=statistics.median(ratios), low=min(ratios), high=max(ratios))


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens two outputs begin with in common."""
    common = 0
    for ours, theirs in zip(tokens, reference, strict=False):
        if ours != theirs:
            break
        common += 1
    return common


def _summary(empty: Measurement, turns: Sequence[Turn]) -> Measurement:
    counted = turns[WARM_UP_ROUNDS:]
    return empty.model_copy(
        update={
            "prefill_ms": tuple(1e3 * turn.prefill_s for turn in counted),
            "decode_ms": tuple(1e3 * statistics.median(turn.decode_s) for turn in counted),
            "cores": sum(turn.cpu_s for turn in counted) / sum(turn.wall_s for turn in counted),
            "tokens": turns[-1].tokens,
            "memory": turns[-1].memory,
        }
    )
