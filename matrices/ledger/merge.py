"""Merge a build's report into the stored cell: how a cell changes state, and keeps or loses its approval.

Pure. `matrices/ledger/ledger.py` calls it, and its docstring states the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from matrices.cells.cell import LADDER, Cell, Evidence, State, cell_id
from matrices.cells.levels import own_steps, rank
from matrices.cells.missing import missing_evidence, open_contradictions
from matrices.releases.ruling import Ruling, Verb
from registry.digest import short
from registry.errors import ConfigurationError

STATE_OF: dict[Verb, State] = {"approve": "approved", "reject": "rejected", "withdraw": "withdrawn"}
"""Ruling → the state that it leads to; nothing else leads there."""
_NEEDS_ARTIFACT: tuple[State, ...] = ("portable", "built", "loads", "close", "evaluated", "benchmarked")
_NEEDS_REASON: tuple[State, ...] = ("failed", "unsupported", "expired")


@dataclass(frozen=True, slots=True)
class Merged:
    """A cell after a report, and what the report added to it."""

    cell: Cell
    """The merged cell, without the new evidence."""
    fresh: tuple[Evidence, ...]
    """New evidence to add, in order."""


def consistent(cell: Cell) -> Cell:
    """The cell itself, if it is consistent.

    Raises:
        ConfigurationError: Its id does not match its parts, a time has no zone, or it lacks something that
            its state requires.
    """
    problem = _contradiction(cell)
    if problem:
        raise ConfigurationError(
            f"the cell `{cell.id}` {problem}", hint="this is a bug in the code that reported it"
        )
    return cell


def merge(before: Cell | None, reported: Cell, *, ruled: Sequence[Ruling]) -> Merged:
    """Merge a report into the stored cell.

    Args:
        before: The stored cell with its evidence; None if it is new.
        reported: The cell as a build or a node's evidence reports it.
        ruled: All rulings on the cell, oldest first.

    Raises:
        ConfigurationError: The report claims a state that only a ruling gives.
    """
    _refuse_claimed_ruling(before, reported)
    if before is None:
        return Merged(cell=reported, fresh=_with_state(reported, list(reported.evidence), changed=True))
    if reported.state == "declared" and before.state != "declared":
        return Merged(cell=before, fresh=())  # a build that has only begun undoes nothing
    fresh = [entry for entry in reported.evidence if _is_new(entry, before.evidence)]
    whole = _with_numbers(reported, of=before, over="absent")
    whole = whole.model_copy(update={"evidence": (*before.evidence, *fresh)})
    whole = _benchmarked_if_timed(whole, evidence=whole.evidence)
    case = _Case(before, whole, tuple(ruled))
    outcome = next(found for rule in _RULES if (found := rule(case)) is not None)
    cell = outcome.cell
    if outcome.lost:
        detail = f"lost {case.approved_by}: {outcome.lost}"
        fresh.append(Evidence(state=cell.state, digest=cell.artifact, at=reported.updated_at, detail=detail))
    return Merged(cell=cell, fresh=_with_state(cell, fresh, changed=cell.state != before.state))


@dataclass(frozen=True, slots=True)
class _Case:
    """The input of a rule."""

    before: Cell
    reported: Cell
    """The report, with all evidence and with the numbers that only the stored cell has."""
    ruled: tuple[Ruling, ...]

    @property
    def same_artifact(self) -> bool:
        """Whether the report is about the artifact that the stored cell has."""
        return self.reported.artifact is not None and self.reported.artifact == self.before.artifact

    @property
    def approval(self) -> Ruling | None:
        """The latest approval."""
        return next((one for one in reversed(self.ruled) if one.verb == "approve"), None)

    @property
    def approved_by(self) -> str:
        """The approval, for people."""
        return f"the approval by {self.approval.who}" if self.approval else "the approval"


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The result of a rule."""

    cell: Cell
    lost: str = ""
    """Why the cell loses its approval; empty if it does not."""


def _refused_by_a_person(case: _Case) -> _Outcome | None:
    """An artifact that a person rejected or withdrew stays so."""
    artifact = case.reported.artifact
    latest = next((one for one in reversed(case.ruled) if one.artifact == artifact), None)
    if artifact is None or latest is None or latest.verb == "approve":
        return None
    state = STATE_OF[latest.verb]
    reason = f"{state} by {latest.who}: {latest.why}"
    return _Outcome(case.reported.model_copy(update={"state": state, "reason": reason}))


def _contradicted(case: _Case) -> _Outcome | None:
    """An approval is lost when new evidence contradicts what it was based on."""
    found = open_contradictions(case.reported)
    if case.before.state != "approved" or not case.same_artifact or not found:
        return None
    return _Outcome(case.reported, lost="; ".join(found))


def _nothing_new(case: _Case) -> _Outcome | None:
    """A report of an earlier step on the same artifact undoes nothing."""
    if not (case.same_artifact and _says_nothing_new(case.before, case.reported)):
        return None
    cell = _with_numbers(case.before, of=case.reported, over="all")
    if case.reported.state in ("close", "evaluated") and case.before.state in (*LADDER, "approved"):
        cell = cell.model_copy(update={"reason": case.reported.reason})  # such as a task type that failed
    return _Outcome(_benchmarked_if_timed(cell, evidence=case.reported.evidence))


def _not_approved_before(case: _Case) -> _Outcome | None:
    """A cell that was not approved becomes what was reported."""
    return _Outcome(case.reported) if case.before.state != "approved" else None


def _another_artifact(case: _Case) -> _Outcome | None:
    """An approval applies to one artifact."""
    if case.same_artifact:
        return None
    was = short(case.before.artifact) if case.before.artifact else "none"
    return _Outcome(case.reported, lost=f"it was for the artifact {was}")


def _off_the_ladder(case: _Case) -> _Outcome | None:
    """A cell that failed or expired is no longer approved."""
    if rank(case.reported.state) is not None:
        return None
    return _Outcome(case.reported, lost=f"it is {case.reported.state} now")


def _evidence_gone(case: _Case) -> _Outcome | None:
    """An approval is lost with the evidence that it was based on; waived evidence is not required."""
    known = {result.task_type for result in case.before.tasks}
    waived = set(case.approval.missing) if case.approval else set()
    lacking = [one for one in missing_evidence(case.reported, tasks=known) if one not in waived]
    return _Outcome(case.reported, lost="; ".join(lacking)) if lacking else None


def _keeps_its_approval(case: _Case) -> _Outcome | None:
    return _Outcome(case.reported.model_copy(update={"state": "approved"}))


_RULES: Final = (
    _refused_by_a_person,
    _contradicted,
    _nothing_new,
    _not_approved_before,
    _another_artifact,
    _off_the_ladder,
    _evidence_gone,
    _keeps_its_approval,
)
"""In order; the first rule that applies decides. From the fifth on, the stored cell is approved."""


def _with_numbers(cell: Cell, *, of: Cell, over: Literal["absent", "all"]) -> Cell:
    """The cell with another report's numbers for the same artifact, replacing absent numbers or all."""
    if cell.artifact is None or cell.artifact != of.artifact:
        return cell
    copied = {
        name: getattr(of, name)
        for name in ("rehearsal", "variant", "speed")
        if getattr(of, name) is not None and (over == "all" or getattr(cell, name) is None)
    }
    return cell.model_copy(update=copied) if copied else cell


def _benchmarked_if_timed(cell: Cell, *, evidence: Sequence[Evidence]) -> Cell:
    """The cell, `benchmarked` if it is evaluated and was timed with the same version of its runtime."""
    if cell.state != "evaluated" or cell.speed is None:
        return cell
    own = own_steps(cell.model_copy(update={"evidence": tuple(evidence)}))
    versions = [_runtime_version(own, state) for state in ("evaluated", "benchmarked")]
    same = versions[0] is not None and versions[0] == versions[1]
    return cell.model_copy(update={"state": "benchmarked"}) if same else cell


def _runtime_version(steps: Sequence[Evidence], state: State) -> str | None:
    """The runtime version that the latest step of a state was measured with."""
    latest = next((entry for entry in reversed(steps) if entry.state == state), None)
    return latest.measurement.runtime_version if latest and latest.measurement else None


def _says_nothing_new(before: Cell, reported: Cell) -> bool:
    """Whether a report on the same artifact is of the same or an earlier step, without new numbers."""
    here = rank(before.state)
    there = 100 if reported.state in STATE_OF.values() else rank(reported.state)
    if before.state == "expired" and reported.state in ("portable", "built"):
        return True  # building it says nothing about its chip
    if reported.state == before.state:
        there = here
    elif here is None or there is None or there > here:
        return False
    same_parity = reported.parity is None or reported.parity == before.parity
    same_tasks = not reported.tasks or reported.tasks == before.tasks
    return same_parity and same_tasks and (here is not None or reported.reason == before.reason)


def _is_new(entry: Evidence, stored: Sequence[Evidence]) -> bool:
    """Whether evidence is not stored yet, and differs from the latest of its kind in more than its time."""
    if entry in stored:
        return False
    same_step = (one for one in reversed(stored) if (one.state, one.digest) == (entry.state, entry.digest))
    latest = next(same_step, None)
    return latest is None or not _same_but_for_time(latest, entry)


def _same_but_for_time(one: Evidence, other: Evidence) -> bool:
    measured, again = one.measurement, other.measurement
    if measured is not None and again is not None:
        measured = measured.model_copy(update={"at": again.at})
    return one.model_copy(update={"at": other.at, "measurement": measured}) == other


def _with_state(cell: Cell, fresh: list[Evidence], *, changed: bool) -> tuple[Evidence, ...]:
    """The new evidence, with an entry for the cell's new state if it has none."""
    if changed and all(entry.state != cell.state for entry in fresh):
        at, digest = cell.updated_at, cell.artifact
        fresh = [*fresh, Evidence(state=cell.state, digest=digest, at=at, detail=cell.reason)]
    return tuple(fresh)


def _refuse_claimed_ruling(before: Cell | None, reported: Cell) -> None:
    if reported.state not in STATE_OF.values():
        return
    if before is not None and (before.state, before.artifact) == (reported.state, reported.artifact):
        return
    raise ConfigurationError(
        f"the cell `{reported.id}` was reported as {reported.state}, which only a ruling makes it",
        hint="approve, reject or withdraw it through the ledger",
    )


def _contradiction(cell: Cell) -> str | None:
    made = cell_id(
        checkpoint=cell.checkpoint, recipe=cell.recipe, target=cell.target, toolchain=cell.toolchain
    )
    if cell.id != made:
        return f"should have the id `{made}`"
    times = (cell.updated_at, *(entry.at for entry in cell.evidence))
    if any(moment.tzinfo is None for moment in times):
        return "has a time without a zone"
    if cell.state in _NEEDS_ARTIFACT and cell.artifact is None:
        return f"is {cell.state} but has no artifact"
    if cell.state in _NEEDS_REASON and not cell.reason.strip():
        return f"is {cell.state} without a reason"
    types = [result.task_type for result in cell.tasks]
    if len(types) != len(set(types)):
        return "has two results for one task type"
    return None
