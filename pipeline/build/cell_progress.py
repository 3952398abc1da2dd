"""How far a cell has come: step by step from a plan to measured numbers, as far as records reach.

Each step takes the frozen progress of the step before and returns the next, or None where what it needs is
not recorded yet. Steps read records and change nothing: the build follows them before a node to find what is
left to do, and after it to compose the cell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from compilers.backend import find_format, find_runtime, find_toolchain, stand_ins_here
from compilers.toolchain import Unsupported
from pipeline.build.judge_again import judge_again
from pipeline.build.manifest import make_manifest
from pipeline.build.plan import PlannedCell
from pipeline.build.plan_records import PlanRecords
from pipeline.build.records import Recorded
from pipeline.stages.evaluate import EvaluateOutput, evaluate_key, outcomes_key
from pipeline.stages.export import ExportOutput
from pipeline.stages.lower import LowerOutput, lower_key
from pipeline.stages.prove import ProveOutput, prove_code, prove_key
from pipeline.stages.quantize import QuantizeOutput
from pipeline.stages.rehearse import RehearseOutput, rehearse_key
from pipeline.stages.stage import StageKey
from pipeline.stages.verify import VerifyOutput, verify_key
from pipeline.workspace.derive import result_difference
from registry.artifact import Manifest
from registry.target import find_target, missing_features
from serving.node.host import this_host

T = TypeVar("T")

REHEARSED_PARAMETERS = 50_000_000
"""Larger checkpoints are not rehearsed: emulators are some hundred times slower than the chip. A small
checkpoint of the same architecture shows the same: sizes are but the bounds of loops."""


@dataclass(frozen=True, slots=True)
class CellProgress:
    """How far one cell has come; what is None was not reached."""

    planned: PlannedCell
    exported: ExportOutput | None = None
    unsupported: Unsupported | None = None
    """The toolchain cannot make it; nothing else is reached."""
    variant: QuantizeOutput | None = None
    lowered: Recorded[LowerOutput] | None = None
    proven: Recorded[ProveOutput] | None = None
    manifest: Manifest | None = None
    """The artifact's; None also where the compiled files hold something else than they should."""
    cannot_run: tuple[str, ...] = ()
    """What this machine lacks to run the artifact; it may then be rehearsed."""
    not_rehearsed: str = ""
    """Why no emulator or stand-in was asked, where one could have been."""
    rehearsed: Recorded[RehearseOutput] | None = None
    verified: Recorded[VerifyOutput] | None = None
    evaluated: Mapping[str, Recorded[EvaluateOutput] | None] = field(default_factory=dict)
    """Task type → its evaluation; None where it is not there yet."""


Step = Callable[[CellProgress], CellProgress | None]


def follow(planned: PlannedCell, steps: Sequence[Step]) -> Iterator[CellProgress]:
    """A cell's progress after each step, beginning with none, as far as records reach."""
    progress: CellProgress | None = CellProgress(planned)
    for step in steps:
        if progress is None:
            return
        yield progress
        progress = step(progress)
    if progress is not None:
        yield progress


@dataclass(frozen=True, slots=True)
class CellSteps:
    """The steps of a cell, and the keys of its stages."""

    found: PlanRecords
    toolchain_version: Callable[[str], str]
    """The version that the executor would run; raises ToolchainMissingError."""

    @property
    def to_support(self) -> tuple[Step, ...]:
        """Whether the cell can be made at all."""
        return (self.exported, self.supported)

    @property
    def to_artifact(self) -> tuple[Step, ...]:
        """Up to a compiled and proven artifact."""
        return (*self.to_support, self.quantized, self.lowered, self.proven, self.bundled)

    @property
    def to_numbers(self) -> tuple[Step, ...]:
        """Up to all that this machine can find out about it."""
        return (*self.to_artifact, self.hosted, self.rehearsed, self.verified, self.evaluated)

    # Steps

    def exported(self, progress: CellProgress) -> CellProgress | None:
        """With the checkpoint's graph."""
        output = self.found.exported(progress.planned.checkpoint)
        return None if output is None else replace(progress, exported=output)

    def supported(self, progress: CellProgress) -> CellProgress:
        """With whether the toolchain can make it."""
        planned = progress.planned
        facts = reached(progress.exported).facts
        support = find_toolchain(planned.toolchain).supports(planned.recipe, planned.target, facts)
        return replace(progress, unsupported=support) if isinstance(support, Unsupported) else progress

    def quantized(self, progress: CellProgress) -> CellProgress | None:
        """With the variant, unless the cell is unsupported."""
        if progress.unsupported is not None:
            return None
        variant = self.found.quantized(progress.planned.checkpoint, progress.planned.recipe)
        return None if variant is None else replace(progress, variant=variant)

    def lowered(self, progress: CellProgress) -> CellProgress | None:
        """With the compiled files.

        Raises:
            ToolchainMissingError: The toolchain is not installed.
        """
        lowered = self.found.records.find(self.lower_key(progress))
        return None if lowered is None else replace(progress, lowered=lowered)

    def proven(self, progress: CellProgress) -> CellProgress | None:
        """With what the files hold."""
        proven = self.found.records.find(self.prove_key(progress))
        return None if proven is None else replace(progress, proven=proven)

    def bundled(self, progress: CellProgress) -> CellProgress | None:
        """With the artifact's manifest, unless its proof found problems.

        Raises:
            ToolchainMissingError: The toolchain is not installed.
        """
        if reached(progress.proven).output.proof.problems:
            return None
        manifest = make_manifest(
            progress.planned,
            variant=reached(progress.variant).variant,
            facts=reached(progress.exported).facts,
            lowered=reached(progress.lowered).output,
            lower_key=self.lower_key(progress).digest,
            toolchain_version=self.toolchain_version(progress.planned.toolchain),
        )
        return replace(progress, manifest=manifest)

    def hosted(self, progress: CellProgress) -> CellProgress:
        """With what this machine lacks to run it as its target would."""
        return replace(progress, cannot_run=cannot_run(reached(progress.manifest)))

    def rehearsed(self, progress: CellProgress) -> CellProgress:
        """With a rehearsal, where this machine cannot run the artifact and an emulator or stand-in can."""
        if not progress.cannot_run or self.found.probed(progress.planned.checkpoint) is None:
            return progress
        parameters = progress.planned.checkpoint.parameters
        key = self.rehearse_key(progress)
        if key is None:
            return progress
        if parameters > REHEARSED_PARAMETERS:
            why = f"too large to be rehearsed: {parameters / 1e6:,.0f} M parameters"
            return replace(progress, not_rehearsed=why)
        return replace(progress, rehearsed=self.found.records.find(key))

    def verified(self, progress: CellProgress) -> CellProgress | None:
        """With its parity on this machine; may not be there yet.

        Raises:
            ToolchainMissingError: The runtime is not installed.
        """
        if progress.cannot_run or self.found.probed(progress.planned.checkpoint) is None:
            return None
        return replace(progress, verified=self.found.records.find(self.verify_key(progress)))

    def evaluated(self, progress: CellProgress) -> CellProgress:
        """With its scorecards on this machine; some may not be there yet.

        Raises:
            ToolchainMissingError: The runtime is not installed.
        """
        keys = self.evaluate_keys(progress)
        found = {
            name: self._evaluation(progress, key) or self._judged_again(progress, name)
            for name, key in keys.items()
        }
        return replace(progress, evaluated={name: found.get(name) for name in self.found.plan.ladder.task})

    def _evaluation(
        self, progress: CellProgress, key: StageKey[EvaluateOutput]
    ) -> Recorded[EvaluateOutput] | None:
        """A recorded evaluation; None also if the record says something else than its scorecard."""
        recorded = self.found.records.find(key)
        if recorded is None:
            return None
        artifact = reached(progress.manifest).digest
        why = result_difference(recorded.output.result, store=self.found.records, artifact=artifact)
        return recorded if why is None else None

    def _judged_again(self, progress: CellProgress, task_type: str) -> Recorded[EvaluateOutput] | None:
        """An earlier evaluation by other bars, judged by the bars of now if its outcomes decide them."""
        found, plan = self.found, self.found.plan
        earlier = self._evaluation(progress, self.outcomes_key(progress, task_type))
        if earlier is None:
            return None
        result = judge_again(
            earlier.output.result.scorecard,
            references=reached(found.references(task_type)),
            bars=plan.bars(task_type),
            records=found.records,
        )
        if result is None:
            return None
        return replace(earlier, output=earlier.output.model_copy(update={"result": result}))

    # Keys

    def lower_key(self, progress: CellProgress) -> StageKey[LowerOutput]:
        """The key of the cell's lowering.

        Raises:
            ToolchainMissingError: The toolchain is not installed.
        """
        planned = progress.planned
        embeds = find_toolchain(planned.toolchain).embeds_weights
        variant = reached(progress.variant).variant
        return lower_key(
            graph=reached(progress.exported).graph.digest,
            layout=variant.layout,
            target=planned.target,
            toolchain=planned.toolchain,
            toolchain_version=self.toolchain_version(planned.toolchain),
            weights=variant.weights.digest if embeds else None,
        )

    def prove_key(self, progress: CellProgress) -> StageKey[ProveOutput]:
        """The key of the proof of the cell's files."""
        return prove_key(
            lowered=reached(progress.lowered).output.model_dump(mode="json", exclude={"log"}),
            target=progress.planned.target,
            toolchain=progress.planned.toolchain,
            code=prove_code(progress.planned.toolchain),
        )

    def rehearse_key(self, progress: CellProgress) -> StageKey[RehearseOutput] | None:
        """The key of the artifact's rehearsal; None: nothing rehearses its format."""
        manifest = reached(progress.manifest)
        if find_format(manifest.format).rehearse is None:
            return None
        return rehearse_key(
            manifest,
            variant=reached(progress.variant).probe,
            checkpoint=reached(self.found.probed(progress.planned.checkpoint)),
            means=stand_ins_here(manifest.format),
            chip=self.found.chip,
        )

    def verify_key(self, progress: CellProgress) -> StageKey[VerifyOutput]:
        """The key of the artifact's verification.

        Raises:
            ToolchainMissingError: The runtime is not installed.
        """
        manifest = reached(progress.manifest)
        return verify_key(
            manifest,
            variant=reached(progress.variant).probe,
            checkpoint=reached(self.found.probed(progress.planned.checkpoint)),
            runtime_version=find_runtime(manifest.format).version(),
            chip=self.found.chip,
        )

    def evaluate_keys(self, progress: CellProgress) -> dict[str, StageKey[EvaluateOutput]]:
        """Task type → the key of the artifact's evaluation, as far as there are references to judge by.

        Raises:
            ToolchainMissingError: The runtime is not installed.
        """
        manifest, plan = reached(progress.manifest), self.found.plan
        return {
            task_type: evaluate_key(
                manifest,
                tasks=self.found.tasks[task_type],
                bars=plan.bars(task_type),
                references=references,
                evaluation=plan.ladder.evaluation,
                max_samples=entry.max_samples,
                runtime_version=find_runtime(manifest.format).version(),
                chip=self.found.chip,
            )
            for task_type, entry in plan.ladder.task.items()
            if (references := self.found.references(task_type)) is not None
        }

    def outcomes_key(self, progress: CellProgress, task_type: str) -> StageKey[EvaluateOutput]:
        """The key of the artifact's latest evaluation of a task type, whatever the bars were.

        Raises:
            ToolchainMissingError: The runtime is not installed.
        """
        manifest, plan = reached(progress.manifest), self.found.plan
        return outcomes_key(
            manifest,
            tasks=self.found.tasks[task_type],
            evaluation=plan.ladder.evaluation,
            max_samples=plan.ladder.task[task_type].max_samples,
            runtime_version=find_runtime(manifest.format).version(),
            chip=self.found.chip,
        )


def cannot_run(manifest: Manifest) -> tuple[str, ...]:
    """What this machine lacks to run an artifact as its target would."""
    host = this_host()
    if missing := missing_features(host, target=find_target(manifest.target)):
        return missing
    support = find_runtime(manifest.format).supports(manifest, host)
    return (support.reason,) if isinstance(support, Unsupported) else ()


def reached(value: T | None) -> T:
    """What an earlier step or node has made.

    Raises:
        RuntimeError: It has not, so the order of steps or nodes is wrong.
    """
    if value is None:
        raise RuntimeError("a step was taken before those that it needs")
    return value
