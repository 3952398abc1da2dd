"""The measurement protocol: engines take turns, A B C A B C …, one running at a time; ratios within a round.

A machine's speed drifts (clock, neighbours on the memory bus). An engine is therefore compared with the base
of its panel in each round, decoding even in each block of a few steps, and what is reported is the median of
those ratios with their quartiles.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
from collections.abc import Sequence

from benchmarks.divergence import Reference
from benchmarks.engines.interface import EngineSpec
from benchmarks.turn import AskDecode, AskPrefill, Turn, TurnMemory
from benchmarks.worker import Worker
from registry.errors import EvaluationError
from registry.value import Value

WARM_UP_ROUNDS = 1


class Panel(Value):
    """Engines measured side by side; the first one is the base of the ratios."""

    name: str
    engines: tuple[EngineSpec, ...]


class RoundsPlan(Value):
    """What is asked in each round: of every engine the prompt, then blocks of steps by turns."""

    prompt: tuple[int, ...]
    blocks: int = 4
    steps: int = 4
    """Counted steps of a block; one before them is not: threads and caches become the engine's own again."""
    rounds: int = 5
    """Counted ones, after warm-up."""

    @property
    def tokens(self) -> int:
        """Length of the output."""
        return 1 + self.blocks * (1 + self.steps)


class EngineMeasurement(Value):
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
    """Per block of steps: the median one."""
    cores: float = 0.0
    """Processor time per time: how many cores it kept busy."""
    tokens: tuple[int, ...] = ()
    """Its greedy output."""
    memory: TurnMemory | None = None
    """After the last round."""
    divergence: float | None = None
    """Mean KL(fp32 reference ‖ this engine), nats per position; None where it was not asked or told."""
    error: str | None = None
    """Why there are no numbers."""


class Ratio(Value):
    """Time of an engine over time of the base in the same round: below 1 is faster than the base."""

    median: float
    low: float
    """First quartile."""
    high: float
    """Third quartile."""


def measure_panel(
    panel: Panel, plan: RoundsPlan, *, threads: int, reference: Reference | None = None
) -> list[EngineMeasurement]:
    """All engines of a panel, in the panel's order; one that fails is a measurement with its error."""
    errors: dict[str, str] = {}
    turns: dict[str, list[Turn]] = {spec.name: [] for spec in panel.engines}
    with contextlib.ExitStack() as stack:
        workers: dict[str, Worker] = {}
        for spec in panel.engines:
            print(f"{panel.name}, {threads} thread(s): loading {spec.name}", file=sys.stderr, flush=True)
            try:
                own = spec.threads or threads
                worker = Worker(spec, threads=own, capacity=len(plan.prompt) + plan.tokens)
                workers[spec.name] = stack.enter_context(worker)
            except EvaluationError as error:
                errors[spec.name] = error.message
        loaded = {name: worker.loaded for name, worker in workers.items()}
        for index in range(WARM_UP_ROUNDS + plan.rounds):
            print(f"{panel.name}, {threads} thread(s): round {index}", file=sys.stderr, flush=True)
            asks: list[AskPrefill | AskDecode] = [AskPrefill(prompt=plan.prompt)]
            asks += [AskDecode(steps=1 + plan.steps)] * plan.blocks
            for ask in asks:
                for name, worker in list(workers.items()):
                    try:
                        turns[name].append(worker.turn(ask))
                    except EvaluationError as error:
                        errors[name] = error.message
                        del workers[name]
        divergences: dict[str, float | None] = {}
        for name, worker in workers.items():
            try:
                divergences[name] = reference.divergence(worker) if reference is not None else None
            except EvaluationError as error:
                errors[name] = error.message
    results = []
    for spec in panel.engines:
        found = EngineMeasurement(
            panel=panel.name,
            engine=spec.name,
            weights=spec.weights,
            exact=spec.exact,
            threads=threads,
            error=errors.get(spec.name),
        )
        if found.error is None:
            facts = {
                "version": loaded[spec.name].version,
                "load_s": loaded[spec.name].seconds,
                "divergence": divergences.get(spec.name),
            }
            found = _summary(found.model_copy(update=facts), turns[spec.name], plan)
        results.append(found)
    return results


def ratio(times: Sequence[float], base: Sequence[float]) -> Ratio | None:
    """Ratios of paired times; None where there are no pairs."""
    ratios = [ours / theirs for ours, theirs in zip(times, base, strict=False)]
    if not ratios:
        return None
    if len(ratios) == 1:
        return Ratio(median=ratios[0], low=ratios[0], high=ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median=median, low=low, high=high)


def agreement(tokens: Sequence[int], reference: Sequence[int]) -> int:
    """How many tokens two outputs begin with in common."""
    common = 0
    for ours, theirs in zip(tokens, reference, strict=False):
        if ours != theirs:
            break
        common += 1
    return common


def _summary(empty: EngineMeasurement, turns: Sequence[Turn], plan: RoundsPlan) -> EngineMeasurement:
    per_round = 1 + plan.blocks
    counted = turns[WARM_UP_ROUNDS * per_round :]
    blocks = [turn for place, turn in enumerate(counted) if place % per_round]
    return empty.model_copy(
        update={
            "prefill_ms": tuple(1e3 * turn.step_s[0] for turn in counted[::per_round]),
            "decode_ms": tuple(1e3 * statistics.median(turn.step_s[1:]) for turn in blocks),
            "cores": sum(turn.cpu_s for turn in counted) / sum(turn.wall_s for turn in counted),
            "tokens": tuple(token for turn in turns[-per_round:] for token in turn.tokens),
            "memory": turns[-1].memory,
        }
    )
