"""From an evidence file's results to the cell, by the steps of `matrices/cells/steps.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from evals.scorecard import Scorecard
from matrices.cells import steps
from matrices.cells.cell import Cell, Evidence, State, TaskResult
from matrices.cells.levels import evaluated_on, evidence_level, rank
from matrices.cells.measurement import Measurement
from matrices.cells.missing import contradiction
from pipeline.evidence.check import Verified
from pipeline.evidence.document import Measured
from registry.digest import short

NOT_THE_ARTIFACTS: Final = frozenset(
    {
        "toolchain_missing",
        "hardware",
        "runtime",
        "timeout",
        "memory",
        "storage_full",
        "evaluation",
        "corrupt",
        "not_found",
    }
)
"""Codes of problems that say nothing of the artifact."""


CHANCE: Final = 0.02
"""Share of the samples that may differ between two chips, where both results earn the same tier."""


@dataclass(frozen=True, slots=True)
class _Contradiction:
    """A step of the evidence that says so, and whether the new result is taken for all that."""

    entry: Evidence
    is_taken: bool


def with_evidence(
    cell: Cell, found: Verified, *, by: str, earlier: Mapping[str, Scorecard] | None = None
) -> Cell | None:
    """The stored cell with a node's evidence; None if there is none.

    Evidence of less than the cell has keeps the state that it is in; see `_raises`.

    Args:
        cell: The stored cell.
        found: The evidence.
        by: Who signed it, for people.
        earlier: Task type → the scorecard that the cell's result rests on. Of two that contradict each other
            the one with the lower tier counts, the contradiction is a step of the evidence, and the cell
            cannot be approved, or loses its approval, until a person has ruled on it.
    """
    against = _contradictions(cell, found, earlier=earlier or {})
    refuted = {name for name, one in against.items() if not one.is_taken}
    kept = tuple(one for one in found.judged if one.result.task_type not in refuted)
    after = _with_results(
        cell.model_copy(update={"state": "declared"}), replace(found, judged=kept), before=cell
    )
    after = after.model_copy(update={"evidence": (*after.evidence, *(one.entry for one in against.values()))})
    fresh = after.evidence[len(cell.evidence) :]
    if not fresh:
        return None
    signed = tuple(
        entry.model_copy(update={"detail": f"{entry.detail}; {by}" if entry.detail else by})
        for entry in fresh
    )
    after = after.model_copy(update={"evidence": (*cell.evidence, *signed)})
    if after.state == "failed" or (after.state != "declared" and _raises(cell, after.state)):
        return after
    is_ruled = cell.state in ("approved", "rejected", "withdrawn")
    return after.model_copy(update={"state": _level(cell) if is_ruled else cell.state, "reason": cell.reason})


def _contradictions(
    cell: Cell, found: Verified, *, earlier: Mapping[str, Scorecard]
) -> dict[str, _Contradiction]:
    """Task type → what a new result has against the stored one, or the other way round."""
    if cell.state == "expired":
        return {}
    stored = {result.task_type: result for result in cell.tasks}
    contradictions: dict[str, _Contradiction] = {}
    for one in found.judged:
        name = one.result.task_type
        known, card = stored.get(name), earlier.get(name)
        if known is None or card is None:
            continue
        differing, common = _differing(card, one.card)
        of_one_tier = _tier(one.result) == _tier(known)
        if differing <= (math.floor(CHANCE * common) if of_one_tier else 0):
            continue
        is_taken = _tier(one.result) > _tier(known)
        on = found.measured.measurement
        detail = contradiction(
            f"{steps.summary_of(one.result)} on {on.chip}; {differing} of {common} samples differ from "
            f"{steps.summary_of(known)}, which {'gives way' if is_taken else 'stays'} "
            f"(scorecard {short(known.scorecard if is_taken else one.result.scorecard)})"
        )
        entry = Evidence(
            state="evaluated", digest=cell.artifact, at=on.at, detail=detail, measurement=_shown(on)
        )
        contradictions[name] = _Contradiction(entry, is_taken=is_taken)
    return contradictions


def _shown(on: Measurement) -> Measurement:
    """The measurement without its runtime's version, so that it does not count as the cell's evaluation."""
    return on.model_copy(update={"runtime_version": None})


def _tier(result: TaskResult) -> float:
    return math.inf if result.tier is None else result.tier


def _differing(one: Scorecard, other: Scorecard) -> tuple[int, int]:
    """How many of the samples that two scorecards have in common differ, and how many there are."""
    if one.tasks_digest != other.tasks_digest:
        return 0, 0
    values = {(sample.task, sample.doc_id, sample.doc_hash): sample.value for sample in one.outcomes}
    pairs = [
        (values[key], sample.value)
        for sample in other.outcomes
        if (key := (sample.task, sample.doc_id, sample.doc_hash)) in values
    ]
    return sum(a != b for a, b in pairs), len(pairs)


def _with_results(cell: Cell, found: Verified, *, before: Cell) -> Cell:
    """The cell with every step that a result shows; `declared` if none of them leads to a state."""
    one = found.measured
    if (made := one.compiled) is not None and made.ok:
        files = [file.path for file in made.outputs[:4]]
        by = f"{made.tool} {made.tool_version}"
        cell = steps.compiled(cell, by=by, files=files, measurement=one.measurement)
    if one.verify is not None:
        cell = steps.verified(cell, one.verify.parity, measurement=one.verify.measurement)
    new = [steps.Evaluated(judged.result, one.measurement) for judged in found.judged]
    kept = _kept_results(before, new)
    if new or kept != before.tasks:
        asked = [task.task_type for task in found.kit.tasks] if found.kit else []
        cell = steps.evaluated(cell, new, asked=asked, kept=kept)
        by_type = sorted(cell.tasks, key=lambda result: result.task_type)
        cell = cell.model_copy(update={"tasks": tuple(by_type)})
    if one.speed is not None:
        cell = steps.benchmarked(cell, one.speed.speed, measurement=one.speed.measurement)
    if (why := _failure(before, one)) is not None:
        on, reason = one.measurement, f"on {one.measurement.chip}: {why}"
        cell = steps.failed(cell, why=why, reason=reason, at=on.at, measurement=on)
    return cell


def _kept_results(before: Cell, new: list[steps.Evaluated]) -> tuple[TaskResult, ...]:
    """Results of task types that were not measured anew, where they are of the same runtime and hold."""
    earlier = evaluated_on(before)
    if earlier is None or before.state == "expired":
        return ()
    if any(one.measurement.runtime_version != earlier.runtime_version for one in new):
        return ()
    replaced = {one.result.task_type for one in new}
    return tuple(result for result in before.tasks if result.task_type not in replaced)


def _failure(before: Cell, one: Measured) -> str | None:
    """Why the artifact fails there; None if it does not, or if it was evaluated on another chip."""
    made, problem = one.compiled, one.problem
    if made is not None and not made.ok:
        tail = made.log_tail.strip().splitlines()[-1:] or ["it printed nothing"]
        why = f"{made.tool} {made.tool_version} does not compile it: {tail[0]}"
    elif problem is not None and one.verify is None and problem.code not in NOT_THE_ARTIFACTS:
        why = f"{problem.message} ({problem.hint})"
    else:
        return None
    earlier = None if before.state in ("failed", "expired") else evaluated_on(before)
    return None if earlier is not None and earlier.chip != one.measurement.chip else why


def _raises(cell: Cell, state: State) -> bool:
    """Whether a step shows as much as the cell's own evidence does, or that does not hold any more."""
    if cell.state in ("failed", "expired"):
        return True
    here, there = rank(_level(cell)), rank(state)
    return here is None or (there is not None and there >= here)


def _level(cell: Cell) -> State:
    return evidence_level(cell) or "declared"
