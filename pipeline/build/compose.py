"""From the records of a build to a cell: its stages' outputs, step by step (`matrices/cells/steps.py`)."""

from __future__ import annotations

from datetime import datetime

from matrices.cells import steps
from matrices.cells.cell import Cell, Evidence, TaskResult, VariantFacts
from pipeline.build.cell_progress import CellProgress
from pipeline.build.records import Recorded
from pipeline.executors.interface import Failure
from pipeline.stages.lower import LowerOutput
from pipeline.stages.rehearse import RehearseOutput
from registry.artifact import Manifest
from registry.errors import EvaluationError


def compose_cell(
    progress: CellProgress,
    failure: Failure | None,
    *,
    declared_at: datetime,
    at: datetime,
    before: Cell | None = None,
) -> Cell:
    """The cell as the build's records show it; the ledger merges it with what a person ruled.

    Args:
        progress: What the build found and did.
        failure: Why it did not come through, if so.
        declared_at: When a build first asked for the cell.
        at: Now.
        before: The stored cell. Where a task type could not be evaluated, its earlier result is kept.
    """
    partial = failure is not None and failure.code == EvaluationError.code and progress.verified is not None
    kept = _earlier(progress, before) if partial else ()
    cell = _with_outputs(_declared(progress, declared_at), progress, kept=kept)
    if failure is None:
        return cell
    reason = f"{failure.message} ({failure.hint})"
    if partial:  # what it reached holds: its parity, and its results on other task types
        return cell.model_copy(update={"reason": reason, "log": failure.log or cell.log})
    return steps.failed(cell, why=failure.message, reason=reason, log=failure.log, at=at)


def _declared(progress: CellProgress, at: datetime) -> Cell:
    planned = progress.planned
    return Cell(
        id=planned.id,
        family=planned.checkpoint.family,
        checkpoint=planned.checkpoint.ref,
        checkpoint_digest=planned.checkpoint.digest,
        tier=planned.tier,
        recipe=planned.recipe.name,
        target=planned.target.name,
        toolchain=planned.toolchain,
        state="declared",
        updated_at=at,
        evidence=(Evidence(state="declared", digest=None, at=at),),
    )


def _earlier(progress: CellProgress, before: Cell | None) -> tuple[TaskResult, ...]:
    """Stored results of the same artifact on task types that have no new one."""
    if before is None or progress.manifest is None or before.artifact != progress.manifest.digest:
        return ()
    lacking = {name for name, found in progress.evaluated.items() if found is None}
    return tuple(result for result in before.tasks if result.task_type in lacking)


def _with_outputs(cell: Cell, progress: CellProgress, *, kept: tuple[TaskResult, ...] = ()) -> Cell:
    if (no := progress.unsupported) is not None:
        return steps.unsupported(cell, reason=f"{no.kind}: {no.reason}", at=cell.updated_at)
    if progress.manifest is None or progress.lowered is None:
        return cell
    cell = _built(cell, progress, manifest=progress.manifest, lowered=progress.lowered)
    if (proven := progress.proven) is not None:  # with problems it has failed before
        cell = steps.proven(cell, summary=proven.output.proof.summary, at=proven.finished_at)
    if progress.rehearsed is not None:
        cell = _rehearsed(cell, progress.rehearsed.output)
    if progress.cannot_run:
        return cell.model_copy(update={"reason": _why_no_further(cell, progress)})
    if (verified := progress.verified) is not None:
        cell = steps.verified(cell, verified.output.parity, measurement=verified.output.measurement)
    found = [one.output for one in progress.evaluated.values() if one is not None]
    evaluated = [steps.Evaluated(output.result, output.measurement) for output in found]
    return steps.evaluated(cell, evaluated, asked=progress.evaluated, kept=kept)


def _built(cell: Cell, progress: CellProgress, *, manifest: Manifest, lowered: Recorded[LowerOutput]) -> Cell:
    variant = None
    if progress.variant is not None:
        weights = progress.variant.variant.weights
        variant = VariantFacts(
            weights=weights.digest,
            weights_bytes=weights.size_bytes,
            parameters=progress.planned.checkpoint.parameters,
            kv_bytes_per_token=manifest.kv_bytes_per_token,
            left_in_float=manifest.left_in_float,
            wide_inputs=manifest.wide_inputs,
        )
    return steps.built(
        cell, manifest=manifest, log=lowered.output.log, variant=variant, at=lowered.finished_at
    )


def _rehearsed(cell: Cell, output: RehearseOutput) -> Cell:
    if output.parity is None or output.measurement is None:
        return cell.model_copy(update={"reason": output.means})
    return steps.rehearsed(cell, output.parity, measurement=output.measurement)


def _why_no_further(cell: Cell, progress: CellProgress) -> str:
    lacks = ", ".join(progress.cannot_run[:4])
    made = "made" if cell.state == "portable" else "built"
    reason = f"{made} for `{cell.target}`; this machine lacks {lacks}"
    if progress.not_rehearsed:
        reason += f"; {progress.not_rehearsed}"
    if cell.rehearsal is not None and not cell.rehearsal.within:
        reason += f"; in emulation {cell.rehearsal.reason}"
    return f"{reason}; {cell.reason}" if cell.reason else reason
