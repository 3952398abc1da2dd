"""What is recorded of a plan's checkpoints and variants: the outputs that its cells share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from evals.digest import tasks_digest
from pipeline.build.plan import BuildPlan, PlannedCell
from pipeline.build.records import Records
from pipeline.stages.checkpoint_probe import probe_key
from pipeline.stages.export import ExportOutput, export_key
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.quantize import QuantizeOutput, quantize_key
from pipeline.stages.reference import ReferenceOutput, reference_key
from pipeline.stages.stage import StageKey
from registry.checkpoint import Checkpoint
from registry.digest import Digest, digest_file
from registry.recipe import Recipe
from serving.node.host import this_host


@dataclass(frozen=True, slots=True)
class PlanRecords:
    """Finds the outputs that a plan's cells share, by the keys that they have on this machine now."""

    plan: BuildPlan
    records: Records
    chip: str
    """This machine's processor, which references are evaluated on."""
    calibration: Digest | None
    """Digest of the calibration set."""
    tasks: Mapping[str, Digest]
    """Task type → digest of its definition."""

    @classmethod
    def here(cls, plan: BuildPlan, records: Records) -> PlanRecords:
        """The records of a plan, as they are looked up on this machine.

        Raises:
            UnknownNameError: The ladder has a task type that does not exist.
            ConfigurationError: A folder of tasks is missing.
        """
        return cls(
            plan=plan,
            records=records,
            chip=this_host().chip,
            calibration=None if plan.calibration is None else digest_file(plan.calibration),
            tasks={
                name: tasks_digest(name, entry, ladder_directory=plan.directory)
                for name, entry in plan.ladder.task.items()
            },
        )

    def exported(self, checkpoint: Checkpoint) -> ExportOutput | None:
        """A checkpoint's interchange graph."""
        return self.records.output(export_key(checkpoint))

    def probe_key(self, checkpoint: Checkpoint) -> StageKey[ProbeOutput]:
        """The key of a checkpoint's probe."""
        return probe_key(checkpoint, calibration=self.calibration)

    def probed(self, checkpoint: Checkpoint) -> ProbeOutput | None:
        """A checkpoint's probe."""
        return self.records.output(self.probe_key(checkpoint))

    def reference_key(self, checkpoint: Checkpoint, task_type: str) -> StageKey[ReferenceOutput]:
        """The key of a checkpoint's scorecard of a task type."""
        return reference_key(
            checkpoint,
            tasks=self.tasks[task_type],
            evaluation=self.plan.ladder.evaluation,
            max_samples=self.plan.ladder.task[task_type].max_samples,
            chip=self.chip,
        )

    def references(self, task_type: str) -> tuple[Digest, ...] | None:
        """Scorecards of the tiers' reference checkpoints, by tier; None where one is missing."""
        keys = (self.reference_key(checkpoint, task_type) for checkpoint in self.plan.checkpoints)
        found = tuple(output.scorecard for key in keys if (output := self.records.output(key)) is not None)
        return found if len(found) == len(self.plan.checkpoints) else None

    def quantize_key(
        self, checkpoint: Checkpoint, recipe: Recipe, *, exported: ExportOutput
    ) -> StageKey[QuantizeOutput]:
        """The key of a variant."""
        return quantize_key(checkpoint, recipe, graph=exported.graph.digest, calibration=self.calibration)

    def quantized(self, checkpoint: Checkpoint, recipe: Recipe) -> QuantizeOutput | None:
        """A variant and its probe."""
        exported = self.exported(checkpoint)
        if exported is None:
            return None
        return self.records.output(self.quantize_key(checkpoint, recipe, exported=exported))


@dataclass(frozen=True, slots=True)
class ExaminationInputs:
    """What an examination of a cell's artifact needs beside the artifact, as recorded."""

    checkpoint_probe: ProbeOutput
    variant_probe: ProbeOutput
    references: Mapping[str, tuple[Digest, ...]]
    """Task type → scorecards of the tiers' reference checkpoints, by tier."""


def find_inputs(planned: PlannedCell, *, found: PlanRecords) -> ExaminationInputs | None:
    """The inputs of a cell's examination, for this or another machine; None where some are not recorded."""
    checkpoint_probe = found.probed(planned.checkpoint)
    variant = found.quantized(planned.checkpoint, planned.recipe)
    references: dict[str, tuple[Digest, ...]] = {}
    for task_type in found.plan.ladder.task:
        cards = found.references(task_type)
        if cards is None:
            return None
        references[task_type] = cards
    if checkpoint_probe is None or variant is None:
        return None
    return ExaminationInputs(checkpoint_probe, variant.probe, references)
