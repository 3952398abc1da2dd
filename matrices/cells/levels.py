"""What the evidence of a cell amounts to: its place on the ladder, whether it suffices, whether it expired.

Pure: values in, sentences out. The rules:

- A cell may be approved without a waiver if its artifact loaded, its parity is within the recipe's bound,
  it was evaluated on every task type of the ladder, and for each of them it **keeps what its checkpoint
  has**: it passes the bar of its checkpoint's own place in the ladder, or a better one. Where the
  checkpoint itself misses the floor of its place, being non-inferior to it is enough; the cell then earns
  no tier for that task type.
- It must earn a tier for at least one task type.
- Evidence holds for one artifact, one runtime and one version of it, compared as exact strings: what is
  evaluated is what is shipped. Any other version has expired evidence, a patch release too, because kernels
  change there.
- The same holds for the driver of its accelerator, and for the toolchain that the artifact was built with.
- A waiver lets a cell be approved with evidence missing. It never grants a tier.
- What an emulator showed, or the same weights on another target (`matrices/cells/proxy.py`), is shown beside
  the cell and lifts it nowhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from matrices.cells.cell import LADDER, Cell, Evidence, State, TaskResult
from registry.artifact import Manifest
from registry.ladder import EVIDENCE_LEVELS, EvidenceLevel


@dataclass(frozen=True, slots=True)
class Versions:
    """What is in use somewhere; what is not named is not judged."""

    runtimes: Mapping[str, str] = field(default_factory=dict)
    """Runtime → version."""
    drivers: Mapping[str, str] = field(default_factory=dict)
    """Chip → version of its driver."""
    toolchains: Mapping[str, str] = field(default_factory=dict)
    """Toolchain → version."""


def place(state: State) -> int | None:
    """How high a state stands on the ladder of evidence, 0 for `declared`; None if it is off the ladder."""
    return LADDER.index(state) if state in LADDER else None


def reached(cell: Cell, *, state: State) -> bool:
    """Whether the cell stands at `state` or higher now."""
    here, there = place(cell.state), place(state)
    return here is not None and there is not None and here >= there


def rank(state: State) -> int | None:
    """How much a state shows, for comparisons: `portable` between `declared` and `built`; None: off both."""
    if state == "portable":
        return 1
    found = place(state)
    return None if found is None else 2 * found


def evidence_level(cell: Cell) -> EvidenceLevel | None:
    """How far the evidence of the cell's artifact reaches, on the chip itself; None: it has no artifact.

    Steps count as far as they follow one another without a gap, and those before an expiry not at all.
    """
    if cell.artifact is None:
        return None
    steps = {entry.state for entry in _standing_entries(cell)}
    level: EvidenceLevel = "portable" if cell.state == "portable" or _only_portable(cell) else "built"
    if level == "portable" or "loads" not in steps:
        return level
    if "close" not in steps or cell.parity is None or not cell.parity.within:
        return "loads"
    if "evaluated" not in steps or not cell.tasks or cell.state in ("loads", "close"):
        return "close"
    return "benchmarked" if "benchmarked" in steps and cell.speed is not None else "evaluated"


def demand_unmet(cell: Cell, *, demanded: EvidenceLevel | None) -> str | None:
    """Why the cell's evidence is less than a release demands for its target; None if it suffices."""
    level = evidence_level(cell)
    if demanded is None or (level is not None and _rank(level) >= _rank(demanded)):
        return None
    reaches = "there is no artifact" if level is None else f"its evidence reaches `{level}`"
    return f"{reaches}, the release demands `{demanded}` of `{cell.target}`"


def evaluated_on(cell: Cell) -> Evidence | None:
    """The latest evaluation of the cell's own artifact, on a chip, that names its runtime's version."""
    for entry in reversed(cell.evidence):
        own = entry.digest == cell.artifact and entry.via == "chip"
        if entry.state == "evaluated" and own and entry.runtime_version:
            return entry
    return None


def rehearsed_by(cell: Cell) -> Evidence | None:
    """The latest step of evidence of the cell's own artifact by an emulator or stand-in."""
    for entry in reversed(cell.evidence):
        if entry.via == "emulator" and entry.digest == cell.artifact:
            return entry
    return None


def in_words(cell: Cell) -> str:
    """The state in words, with what an emulator showed: `built, close in emulation`."""
    entry = rehearsed_by(cell)
    if entry is None or cell.rehearsal is None or cell.state not in ("portable", "built", "expired"):
        return cell.state
    return f"{cell.state}, {'close' if cell.rehearsal.within else 'NOT close'} in emulation"


def earned_tiers(cell: Cell) -> dict[str, int | None]:
    """Task type → best tier earned; None where none is."""
    return {result.task_type: result.tier for result in cell.tasks}


def missing_evidence(cell: Cell, *, tasks: Iterable[str]) -> list[str]:
    """What stands between the cell and an approval without a waiver, one sentence each.

    Args:
        cell: The cell with its evidence.
        tasks: All task types of the ladder.
    """
    found = _missing_steps(cell)
    if cell.artifact is None:
        return found
    results = {result.task_type: result for result in cell.tasks}
    for task in sorted({*tasks, *results}):
        if task not in results:
            found.append(f"never evaluated for `{task}`")
        elif shortfall := _shortfall(results[task], own=cell.tier):
            found.append(shortfall)
    if results and all(result.tier is None for result in results.values()):
        found.append("earned no tier for any task type")
    return found


def expired(
    cell: Cell,
    *,
    runtimes: Mapping[str, str] | None = None,
    versions: Versions | None = None,
    manifest: Manifest | None = None,
) -> str | None:
    """Why the cell's evidence does not hold for what is in use; None if it holds, or there is none.

    Args:
        cell: The cell with its evidence.
        runtimes: Runtime → version in use; a runtime that is not named is not judged.
        versions: The same, and drivers and toolchains.
        manifest: The artifact's, which names its toolchain's version; None: toolchains are not judged.
    """
    used = versions or Versions(runtimes=runtimes or {})
    entry = _measured_on(cell)
    if entry is None:
        return None
    did = "evaluated" if entry.state == "evaluated" else "measured"
    if entry.runtime and used.runtimes.get(entry.runtime, entry.runtime_version) != entry.runtime_version:
        now = f"{entry.runtime} {used.runtimes[entry.runtime]}"
        return f"{did} on {entry.runtime} {entry.runtime_version}, in use is {now}"
    chip = entry.chip or ""
    if entry.driver and used.drivers.get(chip, entry.driver) != entry.driver:
        return f"{did} with driver {entry.driver} of {chip}, in use is {used.drivers[chip]}"
    if manifest is not None:
        built = manifest.toolchain_version
        now = used.toolchains.get(manifest.toolchain, built)
        if now != built:
            return f"built with {manifest.toolchain} {built}, in use is {manifest.toolchain} {now}"
    return None


def _rank(level: EvidenceLevel) -> int:
    return EVIDENCE_LEVELS.index(level)


def _standing_entries(cell: Cell) -> list[Evidence]:
    """Steps of the artifact on the chip, without those that expired and were not reported again since."""
    own = [entry for entry in cell.evidence if entry.digest == cell.artifact and entry.via == "chip"]
    ends = [number for number, entry in enumerate(own) if entry.state == "expired"]
    since = own[ends[-1] + 1 :] if ends else own
    again = any(entry.state in ("loads", "close", "evaluated", "benchmarked") for entry in since)
    return own if again else since


def _only_portable(cell: Cell) -> bool:
    """Whether nothing but the node's own compiler could make code of the artifact, and none has yet."""
    states = {e.state for e in cell.evidence if e.digest == cell.artifact and e.via == "chip"}
    return "portable" in states and not states & {"built", "loads"}


def _measured_on(cell: Cell) -> Evidence | None:
    """The evaluation that counts, else the latest other measurement on the chip."""
    if (entry := evaluated_on(cell)) is not None:
        return entry
    steps = ("loads", "close", "benchmarked")
    return next((e for e in reversed(_standing_entries(cell)) if e.state in steps), None)


def _missing_steps(cell: Cell) -> list[str]:
    found: list[str] = []
    if cell.artifact is None:
        found.append("there is no artifact")
    if cell.state in ("failed", "unsupported", "expired"):
        found.append(f"it is {cell.state}" + (f": {cell.reason}" if cell.reason else ""))
    if cell.artifact is None:
        return found
    steps = {entry.state for entry in cell.evidence if entry.digest == cell.artifact and entry.via == "chip"}
    if cell.state == "portable":
        found.append("it was never compiled: only its node can (`rung node-compile`)")
    if "loads" not in steps and not reached(cell, state="loads"):
        found.append("it was never loaded")
    if cell.parity is None:
        found.append("its parity was never measured" + _in_emulation(cell))
    elif not cell.parity.within:
        found.append(f"its parity is outside the bound: {cell.parity.reason}")
    if evaluated_on(cell) is None:
        found.append("no evaluation of this artifact names its runtime's version")
    return found


def _shortfall(result: TaskResult, *, own: int) -> str | None:
    if result.tier is not None and result.tier <= own:
        return None
    verdict = next((verdict for verdict in result.verdicts if verdict.tier == own), None)
    if verdict is None:
        return f"`{result.task_type}` was never judged against tier {own}, the place of its checkpoint"
    checkpoint_misses_floor = verdict.reference_accuracy < verdict.floor
    if checkpoint_misses_floor and verdict.lower_bound_points > -verdict.margin_points:
        return None
    return f"`{result.task_type}` does not hold tier {own}: {verdict.status}, {verdict.reason}"


def _in_emulation(cell: Cell) -> str:
    entry = rehearsed_by(cell)
    if entry is None or cell.rehearsal is None:
        return ""
    return f" on its chip ({'close' if cell.rehearsal.within else 'not close'} in emulation by {entry.chip})"
