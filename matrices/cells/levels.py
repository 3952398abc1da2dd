"""Evidence level of a cell: how far up the ladder its evidence goes, and on what it was measured.

Pure: values in, values out. Results from an emulator, or from the same weights on another target
(`matrices/cells/proxy.py`), are labelled as such and never count toward a level. `missing.py` says what an
approval still lacks; `expiry.py` says when evidence expires.
"""

from __future__ import annotations

from matrices.cells.cell import LADDER, Cell, Evidence, State
from matrices.cells.measurement import Measurement
from registry.ladder import EVIDENCE_LEVELS, EvidenceLevel


def rank(state: State) -> int | None:
    """Order of the states, with `portable` between `declared` and `built`; None: off the ladder."""
    if state == "portable":
        return 1
    return 2 * LADDER.index(state) if state in LADDER else None


def reached(cell: Cell, *, state: State) -> bool:
    """Whether the cell is now in `state` or further up the ladder."""
    here, there = rank(cell.state), rank(state)
    return here is not None and there is not None and here >= there


def evidence_level(cell: Cell) -> EvidenceLevel | None:
    """How far up the ladder the evidence of the cell's artifact goes, on the chip itself; None: no artifact.

    Steps count up to the first gap; those before an expiry do not count.
    """
    if cell.artifact is None:
        return None
    steps = {entry.state for entry in valid_steps(cell)}
    level: EvidenceLevel = "portable" if cell.state == "portable" or _only_portable(cell) else "built"
    if level == "portable" or "loads" not in steps:
        return level
    if "close" not in steps or cell.parity is None or not cell.parity.within:
        return "loads"
    if "evaluated" not in steps or not cell.tasks or cell.state in ("loads", "close"):
        return "close"
    return "benchmarked" if "benchmarked" in steps and cell.speed is not None else "evaluated"


def demand_unmet(cell: Cell, *, demanded: EvidenceLevel | None) -> str | None:
    """Why the cell has less evidence than a release demands for its target; None if it has enough."""
    level = evidence_level(cell)
    if demanded is None or (level is not None and _rank_of_level(level) >= _rank_of_level(demanded)):
        return None
    reaches = "there is no artifact" if level is None else f"its evidence reaches `{level}`"
    return f"{reaches}, the release demands `{demanded}` of `{cell.target}`"


def evaluated_on(cell: Cell) -> Measurement | None:
    """What the latest evaluation of the cell's artifact ran on; None if none names the runtime's version."""
    for entry in reversed(own_steps(cell)):
        if entry.state == "evaluated" and entry.measurement and entry.measurement.runtime_version:
            return entry.measurement
    return None


def rehearsed_by(cell: Cell) -> Measurement | None:
    """The emulator or stand-in that last ran the cell's artifact; None if none did."""
    for entry in reversed(cell.evidence):
        if entry.via == "emulator" and entry.digest == cell.artifact:
            return entry.measurement
    return None


def state_in_words(cell: Cell) -> str:
    """The state in words, with what an emulator showed: `built, close in emulation`."""
    if (
        rehearsed_by(cell) is None
        or cell.rehearsal is None
        or cell.state not in ("portable", "built", "expired")
    ):
        return cell.state
    return f"{cell.state}, {'close' if cell.rehearsal.within else 'NOT close'} in emulation"


def earned_tiers(cell: Cell) -> dict[str, int | None]:
    """Task type → best tier earned; None where none is."""
    return {result.task_type: result.tier for result in cell.tasks}


def own_steps(cell: Cell) -> list[Evidence]:
    """Steps of the cell's own artifact on its own chip, in order."""
    return [entry for entry in cell.evidence if entry.digest == cell.artifact and entry.via == "chip"]


def valid_steps(cell: Cell) -> list[Evidence]:
    """The same, without steps that expired and were not reported again."""
    own = own_steps(cell)
    ends = [number for number, entry in enumerate(own) if entry.state == "expired"]
    since = own[ends[-1] + 1 :] if ends else own
    again = any(entry.state in ("loads", "close", "evaluated", "benchmarked") for entry in since)
    return own if again else since


def _rank_of_level(level: EvidenceLevel) -> int:
    return EVIDENCE_LEVELS.index(level)


def _only_portable(cell: Cell) -> bool:
    """Whether only a node's own compiler can compile the artifact, and none has yet."""
    states = {entry.state for entry in own_steps(cell)}
    return "portable" in states and not states & {"built", "loads"}
