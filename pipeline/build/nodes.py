"""The shape of a build: which nodes a plan has, what each needs, and what each does.

    export checkpoint ──┬── quantize checkpoint × recipe ── lower code ── examine cell
                        └── reference checkpoint ─────────────────────────┘

Which nodes need which others follows from the `needs` of their stages. Lowered code is keyed without weights:
cells whose graph, layout, target and toolchain agree share one lowering. Lowering ends with the proof:
standard tools read what the files hold, and a cell whose files hold something else than its manifest says
fails there. An artifact that this machine cannot run is rehearsed instead of examined, where an emulator or a
stand-in can run it.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from compilers.backend import find_toolchain
from compilers.proof.proof import Proof
from pipeline.build.cell_progress import CellProgress, CellSteps, Step, follow
from pipeline.build.graph import BuildNode
from pipeline.build.memory import peak_memory_bytes
from pipeline.build.plan import PlannedCell
from pipeline.build.plan_records import PlanRecords
from pipeline.build.requests import (
    export_request,
    lower_request,
    measure_request,
    quantize_request,
    reference_request,
)
from pipeline.executors.interface import Failure, Work
from pipeline.stages.checkpoint_probe import PROBE
from pipeline.stages.evaluate import EVALUATE
from pipeline.stages.export import EXPORT
from pipeline.stages.lower import LOWER
from pipeline.stages.order import Request
from pipeline.stages.prove import PROVE
from pipeline.stages.quantize import QUANTIZE
from pipeline.stages.reference import REFERENCE
from pipeline.stages.rehearse import REHEARSE
from pipeline.stages.stage import Stage
from pipeline.stages.verify import VERIFY
from registry.checkpoint import Checkpoint
from registry.digest import digest_value
from registry.errors import EvaluationError, ToolchainMissingError
from registry.store import Store
from registry.value import Value

StopAfter = Literal["built", "evaluated"]
"""How far a build goes: compiled and proven, or all that this machine can find out."""
NodeKind = Literal["export", "reference", "quantize", "lower", "examine"]
STAGES: Mapping[NodeKind, tuple[Stage[Value], ...]] = {
    "export": (EXPORT,),
    "reference": (PROBE, REFERENCE),
    "quantize": (QUANTIZE,),
    "lower": (LOWER, PROVE),
    "examine": (REHEARSE, VERIFY, EVALUATE),
}
"""Kind of node → the stages that its worker runs."""
OnCell = Callable[[CellProgress, Failure | None], None]
"""Called when a cell is done, with how far it has come and why it failed, if it did."""


def make_nodes(
    found: PlanRecords,
    *,
    store: Store,
    timeout_s: float,
    on_cell: OnCell,
    toolchain_version: Callable[[str], str],
    stop_after: StopAfter,
) -> list[BuildNode]:
    """All nodes that a plan's cells need.

    Args:
        found: The plan and what is recorded of it.
        store: Where manifests are put.
        timeout_s: Limit of each piece of work.
        on_cell: Called once for each cell.
        toolchain_version: The version that the executor would run; raises ToolchainMissingError.
        stop_after: The last step that is wanted.
    """
    steps = CellSteps(found, functools.cache(toolchain_version))
    return list(_Nodes(found, steps, store, timeout_s, on_cell, stop_after).all())


def recorded_progress(
    found: PlanRecords, *, toolchain_version: Callable[[str], str]
) -> Iterator[CellProgress]:
    """How far each cell of a plan has come by what is recorded."""
    steps = CellSteps(found, functools.cache(toolchain_version))
    for cell in found.plan.cells:
        yield _furthest(cell, steps.to_numbers)


@dataclass(frozen=True, slots=True)
class _Nodes:
    found: PlanRecords
    steps: CellSteps
    store: Store
    timeout_s: float
    on_cell: OnCell
    stop_after: StopAfter
    unmeasured: dict[str, Failure] = field(default_factory=dict)
    """Checkpoint → why it could not be measured on every task type."""

    def all(self) -> Iterator[BuildNode]:
        plan = self.found.plan
        for checkpoint in plan.checkpoints:
            yield self.export(checkpoint)
            if self.stop_after == "evaluated":
                yield self.reference(checkpoint)
        variants = {_name("quantize", cell): cell for cell in plan.cells}
        yield from (self.quantize(cell) for cell in variants.values())
        first_to_lower: dict[str, str] = {}
        for cell in plan.cells:
            first = first_to_lower.setdefault(_shared_lowering(cell), _name("lower", cell))
            yield self.lower(cell, after=() if first == _name("lower", cell) else (first,))
            yield self.examine(cell)

    def export(self, checkpoint: Checkpoint) -> BuildNode:
        name = f"export {checkpoint.ref}"
        return BuildNode(
            name, (), lambda: self.work(name, export_request(checkpoint, found=self.found), checkpoint)
        )

    def reference(self, checkpoint: Checkpoint) -> BuildNode:
        """A checkpoint's own measurement; artifacts are compared with as much of it as there is."""
        name = f"reference {checkpoint.ref}"

        def on_done(failure: Failure | None) -> None:
            if failure is not None:
                self.unmeasured[checkpoint.ref] = failure

        return BuildNode(
            name,
            (f"export {checkpoint.ref}",),
            lambda: self.work(name, reference_request(checkpoint, found=self.found), checkpoint),
            on_done,
            on_blocked=on_done,
            blocks=False,
        )

    def quantize(self, cell: PlannedCell) -> BuildNode:
        name = _name("quantize", cell)

        def prepare() -> Work | None:
            request = quantize_request(cell.checkpoint, cell.recipe, found=self.found)
            return self.work(name, request, cell.checkpoint)

        return BuildNode(name, self.needs("quantize", cell), prepare)

    def lower(self, cell: PlannedCell, *, after: tuple[str, ...]) -> BuildNode:
        name = _name("lower", cell)

        def prepare() -> Work | None:
            progress = _last(cell, self.steps.to_artifact)
            return self.work(name, lower_request(progress, steps=self.steps), cell.checkpoint)

        return BuildNode(name, (*self.needs("lower", cell), *after), prepare)

    def examine(self, cell: PlannedCell) -> BuildNode:
        name = _name("examine", cell)
        steps = self.steps.to_artifact if self.stop_after == "built" else self.steps.to_numbers

        def prepare() -> Work | Failure | None:
            progress = _last(cell, steps)
            if progress.proven is not None and (proof := progress.proven.output.proof).problems:
                return _unproven(name, proof, log=progress.lowered.output.log if progress.lowered else None)
            if progress.manifest is not None:
                self.store.put_artifact(progress.manifest)
            if self.stop_after == "built":
                return None
            if progress.manifest is not None and self.found.probed(cell.checkpoint) is None:
                return self.unmeasured[cell.checkpoint.ref]
            return self.work(name, measure_request(progress, steps=self.steps), cell.checkpoint)

        def on_done(failure: Failure | None) -> None:
            progress = _furthest(cell, steps)
            self.on_cell(progress, failure or self.incomparable(progress))

        def on_blocked(failure: Failure) -> None:
            self.on_cell(_furthest(cell, steps), failure)

        return BuildNode(name, self.needs("examine", cell), prepare, on_done, on_blocked)

    def incomparable(self, progress: CellProgress) -> Failure | None:
        """Why an artifact was not evaluated on task types that no reference has."""
        if progress.verified is None or not self.unmeasured:
            return None
        lacking = [name for name in self.found.plan.ladder.task if self.found.references(name) is None]
        if not lacking:
            return None
        checkpoint, failure = next(iter(self.unmeasured.items()))
        names = ", ".join(f"`{name}`" for name in lacking)
        return replace(
            failure,
            code=EvaluationError.code,
            message=f"not evaluated on {names}, which its reference `{checkpoint}` lacks: {failure.message}",
        )

    def needs(self, kind: NodeKind, cell: PlannedCell) -> tuple[str, ...]:
        """Names of the nodes that a node of a cell needs."""
        stages = {need for stage in STAGES[kind] for need in stage.needs}
        kinds = [k for k, has in STAGES.items() if k != kind and any(stage.name in stages for stage in has)]
        names: list[str] = []
        for need in kinds:
            if need != "reference":
                names.append(_name(need, cell))
            elif self.stop_after == "evaluated":  # every tier's: the artifact is judged against all of them
                names += [f"reference {checkpoint.ref}" for checkpoint in self.found.plan.checkpoints]
        return tuple(names)

    def work(self, label: str, request: Request | None, checkpoint: Checkpoint) -> Work | None:
        if request is None:
            return None
        return Work(label, request, peak_memory_bytes(request, checkpoint), self.timeout_s)


def _name(kind: NodeKind, cell: PlannedCell) -> str:
    match kind:
        case "export" | "reference":
            return f"{kind} {cell.checkpoint.ref}"
        case "quantize":
            return f"{kind} {cell.checkpoint.ref}:{cell.recipe.name}"
        case "lower" | "examine":
            return f"{kind} {cell.id}"


def _last(cell: PlannedCell, steps: Sequence[Step]) -> CellProgress:
    """How far a cell has come.

    Raises:
        ToolchainMissingError: The next step needs a toolchain or a runtime that is not installed.
    """
    *_, progress = follow(cell, steps)
    return progress


def _furthest(cell: PlannedCell, steps: Sequence[Step]) -> CellProgress:
    """How far a cell has come, up to a step whose toolchain or runtime is not installed."""
    furthest = CellProgress(cell)
    with contextlib.suppress(ToolchainMissingError):
        for progress in follow(cell, steps):
            furthest = progress
    return furthest


def _shared_lowering(cell: PlannedCell) -> str:
    """Cells of equal value share one lowering, as far as is known before the export."""
    embeds = find_toolchain(cell.toolchain).embeds_weights
    weights = cell.recipe.name if embeds else cell.recipe.layout
    return digest_value([cell.checkpoint.ref, weights, cell.target.name, cell.toolchain])


def _unproven(name: str, proof: Proof, *, log: str | None) -> Failure:
    return Failure(
        "proof",
        f"{name}: the files are not what the manifest says: {'; '.join(proof.problems)}",
        "the compiler or its options are wrong for this target; see the log",
        4,
        log,
    )
