"""From the records of a build to a cell: state, evidence, numbers and reasons, all as recorded."""

from __future__ import annotations

from datetime import datetime

from compilers.backend import find_format
from matrices.cells.cell import Cell, Evidence, State, TaskResult, VariantFacts
from pipeline.build.cell_progress import CellProgress
from pipeline.build.records import Records
from pipeline.executors.interface import Failure
from pipeline.stages.evaluate import EvaluateOutput
from pipeline.stages.lower import LowerOutput
from pipeline.stages.prove import ProveOutput
from pipeline.stages.rehearse import RehearseOutput
from pipeline.stages.verify import VerifyOutput


def compose_cell(
    progress: CellProgress, failure: Failure | None, *, records: Records, declared_at: datetime, at: datetime
) -> Cell:
    """The cell as the build's records tell it; the ledger merges it with what a person ruled.

    Args:
        progress: What the build found and did.
        failure: Why it did not come through, if so.
        records: Stage records.
        declared_at: When a build first asked for the cell.
        at: Now.
    """
    cell = _grown(progress, records, declared_at)
    newest = max(entry.at for entry in cell.evidence)
    return _failed(cell, failure, at) if failure else cell.model_copy(update={"updated_at": newest})


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


def _failed(cell: Cell, failure: Failure, at: datetime) -> Cell:
    evidence = Evidence(state="failed", digest=cell.artifact, at=at, detail=failure.message)
    return cell.model_copy(
        update={
            "state": "failed",
            "reason": f"{failure.message} ({failure.hint})",
            "log": failure.log or cell.log,
            "evidence": (*cell.evidence, evidence),
            "updated_at": at,
        }
    )


def _grown(progress: CellProgress, records: Records, at: datetime) -> Cell:
    cell = _declared(progress, at)
    if (no := progress.unsupported) is not None:
        evidence = Evidence(state="unsupported", digest=None, at=at, detail=f"{no.kind}: {no.reason}")
        reason = f"{no.kind}: {no.reason}"
        return cell.model_copy(
            update={"state": "unsupported", "reason": reason, "evidence": (*cell.evidence, evidence)}
        )
    if progress.manifest is None or progress.lowered is None:
        return cell
    cell = _rehearsed(_proven(_built(cell, progress), progress, records), progress, records)
    if progress.cannot_run:
        return cell.model_copy(update={"reason": _why_no_further(cell, progress)})
    return _evaluated(_verified(cell, progress, records), progress, records)


def _built(cell: Cell, progress: CellProgress) -> Cell:
    """Compiled; or made ready for the node's own compiler, where the format is `portable`."""
    manifest, lowered = progress.manifest, progress.lowered
    if manifest is None or lowered is None:
        return cell
    detail = f"{manifest.toolchain} {manifest.toolchain_version}, {manifest.size_bytes} bytes"
    state: State = "portable" if find_format(manifest.format).compiled_on_node else "built"
    evidence = Evidence(state=state, digest=manifest.digest, at=lowered.finished_at, detail=detail)
    return cell.model_copy(
        update={
            "state": state,
            "build_key": manifest.build_key,
            "artifact": manifest.digest,
            "size_bytes": manifest.size_bytes,
            "log": LowerOutput.model_validate(lowered.output).log,
            "evidence": (*cell.evidence, evidence),
            "variant": _variant(progress),
        }
    )


def _variant(progress: CellProgress) -> VariantFacts | None:
    if progress.variant is None or progress.manifest is None:
        return None
    weights = progress.variant.variant.weights
    return VariantFacts(
        weights=weights.digest,
        weights_bytes=weights.size_bytes,
        parameters=progress.planned.checkpoint.parameters,
        kv_bytes_per_token=progress.manifest.kv_bytes_per_token,
    )


def _proven(cell: Cell, progress: CellProgress, records: Records) -> Cell:
    """With what the files hold; a proof with problems has failed the cell before."""
    record = records.record(progress.proof_key)
    if record is None:
        return cell
    detail = f"opened: {ProveOutput.model_validate(record.output).proof.summary}"
    evidence = Evidence(state=cell.state, digest=cell.artifact, at=record.finished_at, detail=detail)
    return cell.model_copy(update={"evidence": (*cell.evidence, evidence)})


def _rehearsed(cell: Cell, progress: CellProgress, records: Records) -> Cell:
    """With what an emulator or stand-in showed, which lifts the cell nowhere."""
    record = records.record(progress.rehearse_key)
    if record is None:
        return cell
    output = RehearseOutput.model_validate(record.output)
    if output.parity is None:
        return cell.model_copy(update={"reason": output.means})
    evidence = Evidence(
        state="close" if output.parity.within else "loads",
        digest=cell.artifact,
        runtime=_runtime(progress),
        runtime_version=output.runtime_version,
        chip=output.means,
        at=record.finished_at,
        detail=output.parity.reason,
        via="emulator",
    )
    return cell.model_copy(
        update={"rehearsal": output.parity, "evidence": (*cell.evidence, evidence)},
    )


def _why_no_further(cell: Cell, progress: CellProgress) -> str:
    lacks = ", ".join(progress.cannot_run[:4])
    made = "made" if cell.state == "portable" else "built"
    reason = f"{made} for `{cell.target}`; this machine lacks {lacks}"
    if progress.not_rehearsed:
        reason += f"; {progress.not_rehearsed}"
    if cell.rehearsal is not None and not cell.rehearsal.within:
        reason += f"; in emulation {cell.rehearsal.reason}"
    return f"{reason}; {cell.reason}" if cell.reason else reason


def _verified(cell: Cell, progress: CellProgress, records: Records) -> Cell:
    record = records.record(progress.verify_key)
    if record is None:
        return cell
    output = VerifyOutput.model_validate(record.output)
    steps: tuple[State, ...] = ("loads", "close") if output.parity.within else ("loads",)
    evidence = tuple(
        Evidence(
            state=state,
            digest=cell.artifact,
            runtime=_runtime(progress),
            runtime_version=output.runtime_version,
            chip=output.chip,
            driver=output.driver,
            at=record.finished_at,
            detail=output.parity.reason if state == "close" else "",
        )
        for state in steps
    )
    return cell.model_copy(
        update={
            "state": steps[-1],
            "parity": output.parity,
            "evidence": (*cell.evidence, *evidence),
            "reason": "" if output.parity.within else output.parity.reason,
        }
    )


def _evaluated(cell: Cell, progress: CellProgress, records: Records) -> Cell:
    results: list[TaskResult] = []
    evidence: list[Evidence] = []
    for key in progress.evaluate_keys.values():
        record = records.record(key)
        if record is None:
            continue
        output = EvaluateOutput.model_validate(record.output)
        results.append(output.result)
        evidence.append(
            Evidence(
                state="evaluated",
                digest=cell.artifact,
                runtime=_runtime(progress),
                runtime_version=output.runtime_version,
                chip=output.chip,
                driver=output.driver,
                at=record.finished_at,
                detail=summary_of(output.result),
            )
        )
    complete = len(results) == len(progress.evaluate_keys) and cell.state == "close"
    return cell.model_copy(
        update={
            "state": "evaluated" if complete else cell.state,
            "tasks": tuple(results),
            "evidence": (*cell.evidence, *evidence),
        }
    )


def summary_of(result: TaskResult) -> str:
    """A task type's result in one line."""
    earned = f"tier {result.tier}" if result.tier else "no tier"
    return f"{result.task_type} {result.accuracy:.3f} on {result.samples}: {earned}"


def _runtime(progress: CellProgress) -> str | None:
    return None if progress.manifest is None else progress.manifest.format
