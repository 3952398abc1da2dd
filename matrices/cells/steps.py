"""Add a step to a cell: a cell and a measurement → the cell with that evidence, its numbers and new state.

Pure, and the only code that puts measured values into a cell: a build applies the steps to a declared cell
(`pipeline/build/compose.py`), an imported evidence file to the stored one (`pipeline/evidence/record.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from compilers.backend import find_format
from compilers.check.parity import Parity
from compilers.check.speed import Speed
from evals.judge import judge
from evals.scorecard import Scorecard
from evals.verdict import Bar, earned_tier
from matrices.cells.cell import Cell, Evidence, State, TaskResult, VariantFacts
from matrices.cells.measurement import Measurement
from registry.artifact import Manifest
from registry.digest import Digest, digest_value


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The result for one task type, and what it was measured on."""

    result: TaskResult
    measurement: Measurement


def task_result(card: Scorecard, *, references: Mapping[int, Scorecard], bars: Iterable[Bar]) -> TaskResult:
    """A task type's result: its scorecard judged against every tier.

    Args:
        card: The artifact's outcomes, sample by sample.
        references: Tier → outcomes of its reference checkpoint.
        bars: One bar for each tier, sorted by tier.

    Raises:
        EvaluationError: The scorecards cannot be compared.
    """
    verdicts = tuple(judge(card, reference=references[bar.tier], bar=bar) for bar in bars)
    return TaskResult(
        task_type=card.task_type,
        accuracy=card.accuracy,
        samples=len(card.outcomes),
        available=card.available,
        batch_size=card.batch_size,
        tier=earned_tier(list(verdicts)),
        verdicts=verdicts,
        scorecard=digest_value(card),
        tasks_digest=card.tasks_digest,
        prompting=card.prompting,
    )


def unsupported(cell: Cell, *, reason: str, at: datetime) -> Cell:
    """No toolchain can build it, for a reason that a retry does not change."""
    return _step(cell, "unsupported", at=at, detail=reason, reason=reason)


def built(
    cell: Cell, *, manifest: Manifest, log: Digest | None, variant: VariantFacts | None, at: datetime
) -> Cell:
    """Compiled on the build machine; a portable artifact is ready for its node's compiler."""
    made = cell.model_copy(
        update={
            "build_key": manifest.build_key,
            "artifact": manifest.digest,
            "size_bytes": manifest.size_bytes,
            "log": log,
            "variant": variant,
        }
    )
    detail = f"{manifest.toolchain} {manifest.toolchain_version}, {manifest.size_bytes} bytes"
    state: State = "portable" if find_format(manifest.format).compiled_on_node else "built"
    return _step(made, state, at=at, detail=detail)


def compiled(cell: Cell, *, by: str, files: Sequence[str], measurement: Measurement) -> Cell:
    """A portable artifact was compiled on its node, by a tool and its version."""
    return _step(
        cell,
        "built",
        at=measurement.at,
        detail=f"compiled on the node by {by}: {', '.join(files)}",
        measurement=_nothing_ran(measurement),
        reason=f"compiled on its node by {by}",
    )


def proven(cell: Cell, *, summary: str, at: datetime) -> Cell:
    """Its files were opened and contain what they should; the state does not change."""
    return _step(cell, cell.state, at=at, detail=f"opened: {summary}")


def rehearsed(cell: Cell, parity: Parity, *, measurement: Measurement) -> Cell:
    """An emulator or stand-in ran it; the state does not change."""
    shown: State = "close" if parity.within else "loads"
    after = _step(cell, shown, at=measurement.at, detail=parity.reason, measurement=measurement)
    return after.model_copy(update={"rehearsal": parity, "state": cell.state})


def verified(cell: Cell, parity: Parity, *, measurement: Measurement) -> Cell:
    """It loaded on its chip: `close` if its parity is within the bound, else `loads`."""
    why = "" if parity.within else parity.reason
    after = _step(cell, "loads", at=measurement.at, measurement=measurement, reason=why)
    if parity.within:
        after = _step(after, "close", at=measurement.at, detail=parity.reason, measurement=measurement)
    return after.model_copy(update={"parity": parity})


def evaluated(
    cell: Cell, found: Sequence[Evaluated], *, asked: Iterable[str], kept: Sequence[TaskResult] = ()
) -> Cell:
    """Task types were evaluated: `evaluated` if it was `close` and every task type asked for has a result.

    Args:
        cell: The cell.
        found: Results, in the order in which they were obtained.
        asked: Task types that it is to be evaluated on.
        kept: Earlier results that still hold.
    """
    after = cell
    for one in found:
        detail = summary_of(one.result)
        after = _step(
            after, after.state, at=one.measurement.at, detail=detail, measurement=one.measurement,
            shows="evaluated",
        )  # fmt: skip
    tasks = (*kept, *(one.result for one in found))
    complete = cell.state == "close" and bool(found) and set(asked) <= {result.task_type for result in tasks}
    return after.model_copy(update={"tasks": tasks, "state": "evaluated" if complete else cell.state})


def benchmarked(cell: Cell, speed: Speed, *, measurement: Measurement) -> Cell:
    """It was timed: `benchmarked` if it was `evaluated`."""
    rates = f"decode {speed.decode_tokens_per_s:.1f}, prefill {speed.prefill_tokens_per_s:.1f} tokens/s"
    state: State = "benchmarked" if cell.state == "evaluated" else cell.state
    after = _step(cell, state, at=measurement.at, detail=rates, measurement=measurement, shows="benchmarked")
    return after.model_copy(update={"speed": speed})


def failed(
    cell: Cell,
    *,
    why: str,
    reason: str,
    at: datetime,
    log: Digest | None = None,
    measurement: Measurement | None = None,
) -> Cell:
    """It failed.

    Args:
        cell: The cell.
        why: What happened, for its evidence.
        reason: The same with a remedy or a location, for people who look at the cell.
        at: When it failed.
        log: Blob with the compiler's log; None: keep the cell's log.
        measurement: The machine it failed on, if that was a node.
    """
    on = None if measurement is None else _nothing_ran(measurement)
    after = _step(cell, "failed", at=at, detail=why, measurement=on, reason=reason)
    return after.model_copy(update={"log": log or cell.log})


def summary_of(result: TaskResult) -> str:
    """A task type's result in one line."""
    earned = f"tier {result.tier}" if result.tier else "no tier"
    return f"{result.task_type} {result.accuracy:.3f} on {result.samples}: {earned}"


def _step(
    cell: Cell,
    state: State,
    *,
    at: datetime,
    detail: str = "",
    measurement: Measurement | None = None,
    reason: str | None = None,
    shows: State | None = None,
) -> Cell:
    """The cell in a state, with one more step of evidence, for the state `shows` if that differs."""
    entry = Evidence(
        state=shows or state, digest=cell.artifact, at=at, detail=detail, measurement=measurement
    )
    return cell.model_copy(
        update={
            "state": state,
            "evidence": (*cell.evidence, entry),
            "updated_at": max(cell.updated_at, at),
            "reason": cell.reason if reason is None else reason,
        }
    )


def _nothing_ran(measurement: Measurement) -> Measurement:
    return measurement.model_copy(update={"runtime": None, "runtime_version": None})
