"""What is left to do: requests for the stages of a checkpoint, a variant or a cell that are not recorded.

Each function returns the request for a worker, or None where everything is recorded already.
"""

from __future__ import annotations

from pipeline.build.cell_progress import CellProgress, CellSteps, reached
from pipeline.build.plan_records import PlanRecords
from pipeline.stages.examine import ExamineRequest
from pipeline.stages.export import ExportRequest, export_key
from pipeline.stages.lower import LowerRequest
from pipeline.stages.prove import prove_code
from pipeline.stages.quantize import QuantizeRequest
from pipeline.stages.reference import ReferenceRequest
from pipeline.stages.rehearse import RehearseRequest
from pipeline.stages.task import TaskRequest
from registry.checkpoint import Checkpoint
from registry.recipe import Recipe


def export_request(checkpoint: Checkpoint, *, found: PlanRecords) -> ExportRequest | None:
    """To export a checkpoint's graph."""
    key = export_key(checkpoint)
    if found.records.find(key) is not None:
        return None
    return ExportRequest(key=key.digest, checkpoint=checkpoint)


def reference_request(checkpoint: Checkpoint, *, found: PlanRecords) -> ReferenceRequest | None:
    """To probe and evaluate a checkpoint in torch."""
    plan, probe_key = found.plan, found.probe_key(checkpoint)
    has_probe = found.records.find(probe_key) is not None
    keys = {task_type: found.reference_key(checkpoint, task_type) for task_type in plan.ladder.task}
    missing = tuple(
        TaskRequest(
            key=key.digest,
            task_type=task_type,
            entry=plan.ladder.task[task_type],
            code=plan.code.get(task_type),
        )
        for task_type, key in keys.items()
        if found.records.find(key) is None
    )
    if has_probe and not missing:
        return None
    return ReferenceRequest(
        probe_key=None if has_probe else probe_key.digest,
        checkpoint=checkpoint,
        facts=reached(found.exported(checkpoint)).facts,
        calibration=plan.calibration,
        ladder_directory=plan.directory,
        evaluation=plan.ladder.evaluation,
        tasks=missing,
    )


def quantize_request(checkpoint: Checkpoint, recipe: Recipe, *, found: PlanRecords) -> QuantizeRequest | None:
    """To make a variant."""
    exported = reached(found.exported(checkpoint))
    key = found.quantize_key(checkpoint, recipe, exported=exported)
    if found.records.find(key) is not None:
        return None
    return QuantizeRequest(
        key=key.digest,
        checkpoint=checkpoint,
        recipe=recipe,
        graph=exported.graph,
        facts=exported.facts,
        calibration=found.plan.calibration,
    )


def lower_request(progress: CellProgress, *, steps: CellSteps) -> LowerRequest | None:
    """To compile a cell and prove what was made; None also where the cell is unsupported.

    Raises:
        ToolchainMissingError: The toolchain is not installed.
    """
    if progress.unsupported is not None or progress.proven is not None:
        return None
    planned = progress.planned
    return LowerRequest(
        key=steps.lower_key(progress).digest,
        done=None if progress.lowered is None else progress.lowered.output,
        variant=reached(progress.variant).variant,
        facts=reached(progress.exported).facts,
        target=planned.target.name,
        toolchain=planned.toolchain,
        prove_code=prove_code(planned.toolchain),
    )


def measure_request(progress: CellProgress, *, steps: CellSteps) -> ExamineRequest | RehearseRequest | None:
    """To find out what this machine can about a cell's artifact: on its hardware, or by other means."""
    if progress.manifest is None:
        return None
    return _rehearse(progress, steps) if progress.cannot_run else _examine(progress, steps)


def _rehearse(progress: CellProgress, steps: CellSteps) -> RehearseRequest | None:
    key = steps.rehearse_key(progress)
    if key is None or progress.not_rehearsed or progress.rehearsed is not None:
        return None
    return RehearseRequest(
        key=key.digest,
        manifest=reached(progress.manifest),
        recipe=progress.planned.recipe,
        variant_probe=reached(progress.variant).probe,
        checkpoint_probe=reached(steps.found.probed(progress.planned.checkpoint)),
    )


def _examine(progress: CellProgress, steps: CellSteps) -> ExamineRequest | None:
    plan, keys = steps.found.plan, steps.evaluate_keys(progress)
    tasks = tuple(
        TaskRequest(
            key=keys[task_type].digest,
            task_type=task_type,
            entry=plan.ladder.task[task_type],
            bars=plan.bars(task_type),
            references=reached(steps.found.references(task_type)),
            code=plan.code.get(task_type),
            outcomes_key=steps.outcomes_key(progress, task_type).digest,
        )
        for task_type, evaluated in progress.evaluated.items()
        if evaluated is None and task_type in keys
    )
    if progress.verified is not None and not tasks:
        return None
    return ExamineRequest(
        verify_key=None if progress.verified is not None else steps.verify_key(progress).digest,
        manifest=reached(progress.manifest),
        recipe=progress.planned.recipe,
        variant_probe=reached(progress.variant).probe,
        checkpoint_probe=reached(steps.found.probed(progress.planned.checkpoint)),
        ladder_directory=plan.directory,
        evaluation=plan.ladder.evaluation,
        tasks=tasks,
    )
