"""From the records of a build to a cell: state, evidence, numbers and reasons, all as recorded."""

from __future__ import annotations

from datetime import datetime

from matrices.cell import Cell, Evidence, State, TaskResult
from pipeline.executors.local import Failure
from pipeline.nodes import CellProgress
from pipeline.records import Records
from pipeline.requests import EvaluateOutput, LowerOutput, VerifyOutput


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
    cell = _built(cell, progress)
    if progress.cannot_run:
        lacks = ", ".join(progress.cannot_run[:4])
        return cell.model_copy(update={"reason": f"built for `{cell.target}`; this machine lacks {lacks}"})
    return _evaluated(_verified(cell, progress, records), progress, records)


def _built(cell: Cell, progress: CellProgress) -> Cell:
    manifest, lowered = progress.manifest, progress.lowered
    if manifest is None or lowered is None:
        return cell
    detail = f"{manifest.toolchain} {manifest.toolchain_version}, {manifest.size_bytes} bytes"
    evidence = Evidence(state="built", digest=manifest.digest, at=lowered.finished_at, detail=detail)
    return cell.model_copy(
        update={
            "state": "built",
            "build_key": manifest.build_key,
            "artifact": manifest.digest,
            "size_bytes": manifest.size_bytes,
            "log": LowerOutput.model_validate(lowered.output).log,
            "evidence": (*cell.evidence, evidence),
        }
    )


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
        earned = f"tier {output.result.tier}" if output.result.tier else "no tier"
        detail = (
            f"{output.result.task_type} {output.result.accuracy:.3f} on {output.result.samples}: {earned}"
        )
        evidence.append(
            Evidence(
                state="evaluated",
                digest=cell.artifact,
                runtime=_runtime(progress),
                runtime_version=output.runtime_version,
                chip=output.chip,
                at=record.finished_at,
                detail=detail,
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


def _runtime(progress: CellProgress) -> str | None:
    return None if progress.manifest is None else progress.manifest.format
