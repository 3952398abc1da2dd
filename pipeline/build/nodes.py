"""The nodes of a build: each stage's key, whether a record answers it, and the request to run otherwise.

    export checkpoint ──┬── quantize checkpoint × recipe ── lower code ── examine cell
                        └── reference checkpoint ─────────────────────────┘

Lowered code is keyed without weights: cells whose graph, layout, target and toolchain agree share one
lowering. Lowering ends with the proof: standard tools read what the files hold, and a cell whose files hold
something else than its manifest says fails there. An artifact that this machine cannot run is rehearsed
instead of examined, where an emulator or a stand-in can run it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from compilers.backend import find_format, find_runtime, find_toolchain, stand_ins_here
from compilers.proof.proof import Proof
from compilers.toolchain import Unsupported
from evals.digest import tasks_digest
from pipeline.build.cell_progress import CellProgress
from pipeline.build.graph import BuildNode
from pipeline.build.manifest import make_manifest
from pipeline.build.plan import BuildPlan, PlannedCell
from pipeline.build.records import Records
from pipeline.executors.interface import Failure, Work
from pipeline.stages import keys
from pipeline.stages.evaluate import TaskRequest
from pipeline.stages.examine import ExamineRequest
from pipeline.stages.export import ExportOutput, ExportRequest
from pipeline.stages.lower import LowerOutput, LowerRequest
from pipeline.stages.order import Request
from pipeline.stages.probe import ProbeOutput
from pipeline.stages.prove import ProveOutput
from pipeline.stages.quantize import QuantizeOutput, QuantizeRequest
from pipeline.stages.reference import ReferenceOutput, ReferenceRequest
from pipeline.stages.rehearse import RehearseRequest
from registry.artifact import Manifest
from registry.checkpoint import Checkpoint
from registry.digest import digest_file, digest_value
from registry.recipe import Recipe
from registry.store import Store
from registry.target import find_target, missing_features
from serving.node.host import this_host

REHEARSED_PARAMETERS = 50_000_000
"""Larger checkpoints are not rehearsed: emulators are some hundred times slower than the chip. A small
checkpoint of the same architecture shows the same: sizes are but the bounds of loops."""
BASE_MEMORY_BYTES = 700 << 20
"""A worker with its libraries and nothing loaded."""
FP32_COPIES = {
    "export": 0.0,
    "quantize": 3.0,
    "reference": 1.5,
    "lower": 0.5,
    "examine": 2.5,
    "rehearse": 3.5,
}
"""Estimate of a stage's peak memory, as multiples of the checkpoint's fp32 weights."""
EMBEDDED_COPIES = 3.5
"""The same for a lowering whose files hold the weights."""


T = TypeVar("T")
StopAfter = Literal["built", "evaluated"]
"""How far a build goes: compiled and proven, or all that this machine can find out."""
Settled = Callable[[CellProgress], Callable[[Failure | None], None]]


def make_nodes(
    plan: BuildPlan,
    cells: Sequence[CellProgress],
    *,
    records: Records,
    store: Store,
    timeout_s: float,
    settled: Settled,
    toolchain_version: Callable[[str], str],
    stop_after: StopAfter,
) -> list[BuildNode]:
    """All nodes that a plan's cells need.

    Args:
        plan: The cells and what they are made from.
        cells: Filled as the nodes are prepared.
        records: What is done already.
        store: Where the bytes are.
        timeout_s: Limit of each piece of work.
        settled: Makes the function to call when a cell is settled.
        toolchain_version: The version that the executor would run; raises ToolchainMissingError.
        stop_after: The last step that is wanted.
    """
    return _Nodes(plan, records, store, timeout_s, toolchain_version, stop_after).all(cells, settled)


class _Nodes:
    def __init__(
        self,
        plan: BuildPlan,
        records: Records,
        store: Store,
        timeout_s: float,
        toolchain_version: Callable[[str], str],
        stop_after: StopAfter,
    ) -> None:
        self.stop_after = stop_after
        self.toolchain_version = functools.cache(toolchain_version)
        self.plan = plan
        self.records = records
        self.store = store
        self.timeout_s = timeout_s
        self.host = this_host()
        self.calibration = None if plan.calibration is None else digest_file(plan.calibration)
        self.tasks = {
            name: tasks_digest(name, entry, ladder_directory=plan.directory)
            for name, entry in plan.ladder.task.items()
        }

    def all(self, cells: Sequence[CellProgress], settled: Settled) -> list[BuildNode]:
        nodes: dict[str, BuildNode] = {}
        for checkpoint in self.plan.checkpoints:
            export = self.export_node(checkpoint)
            nodes[export.name] = export
            if self.stop_after == "evaluated":
                reference = self.reference_node(checkpoint)
                nodes[reference.name] = reference
        for cell in cells:
            planned = cell.planned
            quantize = self.quantize_node(planned.checkpoint, planned.recipe)
            nodes.setdefault(quantize.name, quantize)
            lower = self.lower_node(cell, twins=nodes)
            nodes[lower.name] = lower
            examine = self.examine_node(cell, settled(cell))
            nodes[examine.name] = examine
        return list(nodes.values())

    def work(self, label: str, request: Request, checkpoint: Checkpoint) -> Work:
        embeds = isinstance(request, LowerRequest) and find_toolchain(request.toolchain).embeds_weights
        copies = EMBEDDED_COPIES if embeds else FP32_COPIES[request.kind]
        memory = BASE_MEMORY_BYTES + int(copies * 4 * checkpoint.parameters)
        return Work(label, request, memory, self.timeout_s)

    # Export

    def export_node(self, checkpoint: Checkpoint) -> BuildNode:
        name = f"export {checkpoint.ref}"
        key = keys.export_key(checkpoint)

        def prepare() -> Work | None:
            if self.records.record(key) is not None:
                return None
            return self.work(name, ExportRequest(key=key, checkpoint=checkpoint), checkpoint)

        return BuildNode(name, (), prepare, _nothing)

    def exported(self, checkpoint: Checkpoint) -> ExportOutput:
        return _present(self.records.find(keys.export_key(checkpoint), ExportOutput))

    # Reference

    def reference_node(self, checkpoint: Checkpoint) -> BuildNode:
        name = f"reference {checkpoint.ref}"

        def prepare() -> Work | None:
            probe_key = self.probe_key(checkpoint)
            has_probe = self.records.record(probe_key) is not None
            missing = tuple(
                TaskRequest(key=key, task_type=task_type, entry=entry)
                for task_type, entry in self.plan.ladder.task.items()
                if self.records.record(key := self.reference_key(checkpoint, task_type)) is None
            )
            if has_probe and not missing:
                return None
            request = ReferenceRequest(
                probe_key=None if has_probe else probe_key,
                checkpoint=checkpoint,
                facts=self.exported(checkpoint).facts,
                calibration=self.plan.calibration,
                ladder_directory=self.plan.directory,
                evaluation=self.plan.ladder.evaluation,
                tasks=missing,
            )
            return self.work(name, request, checkpoint)

        return BuildNode(name, (f"export {checkpoint.ref}",), prepare, _nothing)

    def probe_key(self, checkpoint: Checkpoint) -> str:
        return keys.stage_key(
            "quantize",
            what="probe",
            checkpoint=checkpoint.digest,
            calibration=self.calibration,
            torch=keys.version("torch"),
            transformers=keys.version("transformers"),
        )

    def reference_key(self, checkpoint: Checkpoint, task_type: str) -> str:
        return keys.stage_key(
            "reference",
            checkpoint=checkpoint.digest,
            tasks=self.tasks[task_type],
            evaluation=self.plan.ladder.evaluation,
            max_samples=self.plan.ladder.task[task_type].max_samples,
            torch=keys.version("torch"),
            transformers=keys.version("transformers"),
            chip=self.host.chip,
        )

    # Quantize

    def quantize_node(self, checkpoint: Checkpoint, recipe: Recipe) -> BuildNode:
        name = f"quantize {checkpoint.ref}:{recipe.name}"

        def prepare() -> Work | None:
            export = self.exported(checkpoint)
            key = self.quantize_key(checkpoint, recipe)
            if self.records.record(key) is not None:
                return None
            request = QuantizeRequest(
                key=key,
                checkpoint=checkpoint,
                recipe=recipe,
                export=export,
                calibration=self.plan.calibration,
            )
            return self.work(name, request, checkpoint)

        return BuildNode(name, (f"export {checkpoint.ref}",), prepare, _nothing)

    def quantize_key(self, checkpoint: Checkpoint, recipe: Recipe) -> str:
        graph = self.exported(checkpoint).graph.digest
        return keys.quantize_key(checkpoint, recipe, graph=graph, calibration=self.calibration)

    # Lower

    def lower_node(self, cell: CellProgress, *, twins: dict[str, BuildNode]) -> BuildNode:
        planned = cell.planned
        name = f"lower {planned.id}"
        twin = self.twin(planned)

        def prepare() -> Work | None:
            export = self.exported(planned.checkpoint)
            toolchain = find_toolchain(planned.toolchain)
            support = toolchain.supports(planned.recipe, planned.target, export.facts)
            if isinstance(support, Unsupported):
                cell.unsupported = support
                return None
            cell.variant = _present(
                self.records.find(self.quantize_key(planned.checkpoint, planned.recipe), QuantizeOutput)
            )
            key = self.lower_key(planned)
            done = self.records.find(key, LowerOutput)
            if done is not None and self.records.record(self.prove_key(planned, done)) is not None:
                return None
            request = LowerRequest(
                key=key,
                done=done,
                variant=cell.variant.variant,
                facts=export.facts,
                target=planned.target.name,
                toolchain=planned.toolchain,
            )
            return self.work(name, request, planned.checkpoint)

        needs = [f"quantize {planned.checkpoint.ref}:{planned.recipe.name}"]
        first = next((n for n in twins if n.startswith("lower ") and twins[n].twin == twin), None)
        if first is not None:
            needs.append(first)
        return BuildNode(name, tuple(needs), prepare, _nothing, twin=twin)

    def twin(self, planned: PlannedCell) -> str:
        """Cells of equal twin share one lowering, as far as can be told before the export."""
        embeds = find_toolchain(planned.toolchain).embeds_weights
        weights = planned.recipe.name if embeds else planned.recipe.layout
        return digest_value([planned.checkpoint.ref, weights, planned.target.name, planned.toolchain])

    def lower_key(self, planned: PlannedCell) -> str:
        variant = None
        if find_toolchain(planned.toolchain).embeds_weights:
            key = self.quantize_key(planned.checkpoint, planned.recipe)
            variant = _present(self.records.find(key, QuantizeOutput)).variant
        return keys.lower_key(
            graph=self.exported(planned.checkpoint).graph.digest,
            layout=planned.recipe.layout,
            target=planned.target,
            toolchain=planned.toolchain,
            toolchain_version=self.toolchain_version(planned.toolchain),
            weights=None if variant is None else variant.weights.digest,
        )

    def prove_key(self, planned: PlannedCell, lowered: LowerOutput) -> str:
        return keys.prove_key(
            lowered=lowered.model_dump(mode="json", exclude={"log"}),
            target=planned.target,
            toolchain=planned.toolchain,
        )

    # Examine

    def examine_node(self, cell: CellProgress, settle: Callable[[Failure | None], None]) -> BuildNode:
        planned = cell.planned
        name = f"examine {planned.id}"

        def prepare() -> Work | Failure | None:
            if cell.unsupported is not None or cell.variant is None:
                return None
            cell.lowered = _present(self.records.record(self.lower_key(planned)))
            cell.proof_key = self.prove_key(planned, LowerOutput.model_validate(cell.lowered.output))
            proof = _present(self.records.find(cell.proof_key, ProveOutput)).proof
            if proof.problems:
                return _unproven(name, proof, log=LowerOutput.model_validate(cell.lowered.output).log)
            cell.manifest = self.manifest(cell)
            if self.stop_after == "built":
                return None
            cell.cannot_run = self.cannot_run(cell.manifest)
            if cell.cannot_run:
                rehearsal = self.rehearse_request(cell)
                return None if rehearsal is None else self.work(name, rehearsal, planned.checkpoint)
            request = self.examine_request(cell)
            if request.verify_key is None and not request.tasks:
                return None
            return self.work(name, request, planned.checkpoint)

        references = self.plan.checkpoints if self.stop_after == "evaluated" else ()
        needs = (f"lower {planned.id}", *(f"reference {c.ref}" for c in references))
        return BuildNode(name, needs, prepare, settle)

    def manifest(self, cell: CellProgress) -> Manifest:
        planned, variant, lowered = cell.planned, _present(cell.variant).variant, _present(cell.lowered)
        manifest = make_manifest(
            planned,
            variant=variant,
            facts=self.exported(planned.checkpoint).facts,
            lowered=LowerOutput.model_validate(lowered.output),
            lower_key=lowered.key,
            toolchain_version=self.toolchain_version(planned.toolchain),
        )
        self.store.put_artifact(manifest)
        return manifest

    def cannot_run(self, manifest: Manifest) -> tuple[str, ...]:
        """What this machine lacks to run an artifact as its target would."""
        target = find_target(manifest.target)
        if missing := missing_features(self.host, target=target):
            return missing
        support = find_runtime(manifest.format).supports(manifest, self.host)
        return (support.reason,) if isinstance(support, Unsupported) else ()

    def rehearse_request(self, cell: CellProgress) -> RehearseRequest | None:
        """None: nothing rehearses this format, or it is recorded."""
        manifest = _present(cell.manifest)
        if find_format(manifest.format).rehearse is None:
            return None
        if (parameters := cell.planned.checkpoint.parameters) > REHEARSED_PARAMETERS:
            cell.not_rehearsed = f"too large to be rehearsed: {parameters / 1e6:,.0f} M parameters"
            return None
        variant = _present(cell.variant)
        checkpoint_probe = _present(self.records.find(self.probe_key(cell.planned.checkpoint), ProbeOutput))
        cell.rehearse_key = keys.stage_key(
            "rehearse",
            artifact=manifest.digest,
            variant=variant.probe,
            checkpoint=checkpoint_probe,
            means=stand_ins_here(manifest.format),
            chip=self.host.chip,
        )
        if self.records.record(cell.rehearse_key) is not None:
            return None
        return RehearseRequest(
            key=cell.rehearse_key,
            manifest=manifest,
            recipe=cell.planned.recipe,
            variant_probe=variant.probe,
            checkpoint_probe=checkpoint_probe,
        )

    def examine_request(self, cell: CellProgress) -> ExamineRequest:
        planned, manifest = cell.planned, _present(cell.manifest)
        checkpoint_probe = _present(self.records.find(self.probe_key(planned.checkpoint), ProbeOutput))
        variant = _present(cell.variant)
        runtime = {"version": find_runtime(manifest.format).version(), "chip": self.host.chip}
        cell.verify_key = keys.stage_key(
            "verify",
            artifact=manifest.digest,
            variant=variant.probe,
            checkpoint=checkpoint_probe,
            runtime=runtime,
        )
        tasks = []
        for task_type, entry in self.plan.ladder.task.items():
            bars = self.plan.bars(task_type)
            references = tuple(
                _present(self.records.find(self.reference_key(c, task_type), ReferenceOutput)).scorecard
                for c in self.plan.checkpoints
            )
            key = keys.stage_key(
                "evaluate",
                artifact=manifest.digest,
                tasks=self.tasks[task_type],
                bars=list(bars),
                references=references,
                evaluation=self.plan.ladder.evaluation,
                max_samples=entry.max_samples,
                runtime=runtime,
            )
            cell.evaluate_keys[task_type] = key
            if self.records.record(key) is None:
                tasks.append(
                    TaskRequest(key=key, task_type=task_type, entry=entry, bars=bars, references=references)
                )
        return ExamineRequest(
            verify_key=None if self.records.record(cell.verify_key) is not None else cell.verify_key,
            manifest=manifest,
            recipe=planned.recipe,
            variant_probe=variant.probe,
            checkpoint_probe=checkpoint_probe,
            ladder_directory=self.plan.directory,
            evaluation=self.plan.ladder.evaluation,
            tasks=tuple(tasks),
        )


def _unproven(name: str, proof: Proof, *, log: str) -> Failure:
    return Failure(
        "proof",
        f"{name}: the files are not what the manifest says: {'; '.join(proof.problems)}",
        "the compiler or its options are wrong for this target; see the log",
        4,
        log,
    )


def _nothing(failure: Failure | None) -> None:
    """Shared nodes settle no cell."""


def _present(value: T | None) -> T:
    """A value that an earlier node of the graph has made."""
    if value is None:
        raise RuntimeError("a node was prepared before its needs were done")
    return value


@dataclass(frozen=True, slots=True)
class Inputs:
    """What an examination of a cell's artifact needs beside the artifact, as recorded."""

    checkpoint_probe: ProbeOutput
    variant_probe: ProbeOutput
    references: Mapping[str, tuple[str, ...]]
    """Task type → digests of the scorecards of the tiers' reference checkpoints, by tier."""


def find_inputs(
    plan: BuildPlan, planned: PlannedCell, *, records: Records, store: Store, timeout_s: float = 0.0
) -> Inputs | None:
    """The inputs of a cell's examination, for machines other than this one; None where some are not recorded.

    Args:
        plan: The ladder.
        planned: The cell.
        records: What is done.
        store: Where the bytes are.
        timeout_s: Of no work: none is run.
    """
    nodes = _Nodes(
        plan, records, store, timeout_s, lambda name: find_toolchain(name).version(), stop_after="evaluated"
    )
    if records.find(keys.export_key(planned.checkpoint), ExportOutput) is None:
        return None
    checkpoint = records.find(nodes.probe_key(planned.checkpoint), ProbeOutput)
    variant = records.find(nodes.quantize_key(planned.checkpoint, planned.recipe), QuantizeOutput)
    references: dict[str, tuple[str, ...]] = {}
    for task_type in plan.ladder.task:
        found = [
            records.find(nodes.reference_key(one, task_type), ReferenceOutput) for one in plan.checkpoints
        ]
        references[task_type] = tuple(one.scorecard for one in found if one is not None)
        if len(references[task_type]) < len(plan.checkpoints):
            return None
    if checkpoint is None or variant is None:
        return None
    return Inputs(checkpoint, variant.probe, references)
