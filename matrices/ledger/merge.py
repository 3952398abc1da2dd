"""Merge a build's report into the stored cell: which state it has now, and when it loses its approval.

Pure, and the heart of `matrices/ledger/ledger.py`, which states the rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matrices.cells.cell import Cell, Evidence, State, cell_id
from matrices.cells.levels import missing_evidence, rank
from matrices.releases.ruling import Ruling, Verb
from registry.digest import short
from registry.errors import ConfigurationError

STATE_OF: dict[Verb, State] = {"approve": "approved", "reject": "rejected", "withdraw": "withdrawn"}
"""The state that a ruling leads to, and nothing else does."""
_NEEDS_ARTIFACT: tuple[State, ...] = ("portable", "built", "loads", "close", "evaluated", "benchmarked")
_NEEDS_REASON: tuple[State, ...] = ("failed", "unsupported", "expired")


@dataclass(frozen=True, slots=True)
class Standing:
    """A cell as it stands, and what the report changed."""

    cell: Cell
    """Without the evidence that is new."""
    fresh: tuple[Evidence, ...]
    """Evidence to add, in order."""


def consistent(cell: Cell) -> Cell:
    """The cell itself, if it does not contradict itself.

    Raises:
        ConfigurationError: Its id is not made of its parts, a time has no zone, or its state lacks what it
            needs.
    """
    problem = _contradiction(cell)
    if problem:
        raise ConfigurationError(f"the cell `{cell.id}` {problem}", hint="this is a bug of what reported it")
    return cell


def stand(before: Cell | None, reported: Cell, *, ruled: Sequence[Ruling]) -> Standing:
    """How a cell stands after a report.

    Args:
        before: The cell as it stood, with its evidence; None if it is new.
        reported: What a build says of it.
        ruled: All rulings on the cell, oldest first.

    Raises:
        ConfigurationError: The report claims a state that only a ruling gives.
    """
    _refuse_claimed_ruling(before, reported)
    if before is None:
        return Standing(cell=reported, fresh=_with_state(reported, list(reported.evidence), changed=True))
    if reported.state == "declared" and before.state != "declared":
        return Standing(cell=before, fresh=())
    fresh = [entry for entry in reported.evidence if _is_new(entry, before.evidence)]
    whole = _with_numbers(reported, of=before, over="absent")
    whole = whole.model_copy(update={"evidence": (*before.evidence, *fresh)})
    whole = _lifted(whole, evidence=whole.evidence)
    cell, note = _judge(before, whole, ruled=ruled)
    if note:
        at, digest = reported.updated_at, cell.artifact
        fresh.append(Evidence(state=cell.state, digest=digest, at=at, detail=note))
    return Standing(cell=cell, fresh=_with_state(cell, fresh, changed=cell.state != before.state))


def _judge(before: Cell, reported: Cell, *, ruled: Sequence[Ruling]) -> tuple[Cell, str]:
    """The cell as it stands, and a note on an approval that it lost."""
    same = reported.artifact is not None and reported.artifact == before.artifact
    latest = next((one for one in reversed(ruled) if one.artifact == reported.artifact), None)
    if reported.artifact is not None and latest is not None and latest.verb != "approve":
        state = STATE_OF[latest.verb]
        reason = f"{state} by {latest.who}: {latest.why}"
        return reported.model_copy(update={"state": state, "reason": reason}), ""
    if same and _says_nothing_new(before, reported):
        return _lifted(_with_numbers(before, of=reported, over="all"), evidence=reported.evidence), ""
    if before.state != "approved":
        return reported, ""
    approval = next((one for one in reversed(ruled) if one.verb == "approve"), None)
    by = f"the approval by {approval.who}" if approval else "the approval"
    if not same:
        was = short(before.artifact) if before.artifact else "none"
        return reported, f"lost {by}: it was for the artifact {was}"
    if rank(reported.state) is None:
        return reported, f"lost {by}: it is {reported.state} now"
    known = {result.task_type for result in before.tasks}
    waived = set(approval.missing) if approval else set()
    lacking = [one for one in missing_evidence(reported, tasks=known) if one not in waived]
    if lacking:
        return reported, f"lost {by}: {'; '.join(lacking)}"
    return reported.model_copy(update={"state": "approved"}), ""


def _with_numbers(cell: Cell, *, of: Cell, over: Literal["absent", "all"]) -> Cell:
    """The cell with another report's numbers on the same artifact, in the place of absent or of all ones."""
    if cell.artifact is None or cell.artifact != of.artifact:
        return cell
    taken = {
        name: getattr(of, name)
        for name in ("rehearsal", "variant", "speed")
        if getattr(of, name) is not None and (over == "all" or getattr(cell, name) is None)
    }
    return cell.model_copy(update=taken) if taken else cell


def _lifted(cell: Cell, *, evidence: Sequence[Evidence]) -> Cell:
    """An evaluated cell that was timed with the same version of its runtime is benchmarked."""
    if cell.state != "evaluated" or cell.speed is None:
        return cell
    own = [e for e in reversed(evidence) if e.digest == cell.artifact and e.via == "chip"]
    versions = [
        next((e.runtime_version for e in own if e.state == state), None)
        for state in ("evaluated", "benchmarked")
    ]
    same = versions[0] is not None and versions[0] == versions[1]
    return cell.model_copy(update={"state": "benchmarked"}) if same else cell


def _says_nothing_new(before: Cell, reported: Cell) -> bool:
    """Whether a report on the same artifact is of an earlier or the same step, without other numbers."""
    here = rank(before.state)
    there = 100 if reported.state in STATE_OF.values() else rank(reported.state)
    if before.state == "expired" and reported.state in ("portable", "built"):
        return True  # that it was built is no evidence of a chip
    if reported.state == before.state:
        there = here
    elif here is None or there is None or there > here:
        return False
    same_parity = reported.parity is None or reported.parity == before.parity
    same_tasks = not reported.tasks or reported.tasks == before.tasks
    return same_parity and same_tasks and (here is not None or reported.reason == before.reason)


def _is_new(entry: Evidence, stored: Sequence[Evidence]) -> bool:
    """Whether evidence is neither stored already nor, but for its time, the latest of its kind."""
    if entry in stored:
        return False
    same_step = (one for one in reversed(stored) if (one.state, one.digest) == (entry.state, entry.digest))
    latest = next(same_step, None)
    return latest is None or latest.model_copy(update={"at": entry.at}) != entry


def _with_state(cell: Cell, fresh: list[Evidence], *, changed: bool) -> tuple[Evidence, ...]:
    """The fresh evidence, with an entry for the state that the cell came to if there is none."""
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
