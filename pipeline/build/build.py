"""`rung build`: brings every cell of a ladder up to date, and nothing else.

Makes the nodes, runs the graph, records each stage's output the moment it is reported, and composes the
cells. What has a record whose bytes are still in the store is not done again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Protocol, assert_never

from matrices.cells.cell import Cell
from matrices.ledger.build_records import BuildRecord
from matrices.ledger.ledger import Ledger
from pipeline.build.cell_progress import CellProgress
from pipeline.build.compose import compose_cell
from pipeline.build.graph import BuildNode, run_graph
from pipeline.build.nodes import StopAfter, make_nodes
from pipeline.build.plan import BuildPlan
from pipeline.build.records import Records
from pipeline.executors.interface import Executor, Failure
from pipeline.stages.events import ErrorEvent, Event, FinishEvent, OutputEvent, ProgressEvent
from registry.errors import CorruptError, StorageFullError
from registry.store import Store


class Display(Protocol):
    """Shows a build to a person."""

    def total(self, count: int) -> None:
        """How many nodes there are."""
        ...

    def started(self, name: str) -> None:
        """A node's work began."""
        ...

    def progress(self, name: str, text: str) -> None:
        """What a node's worker does now."""
        ...

    def ended(self, name: str, failure: Failure | None, *, ran: bool) -> None:
        """A node is settled."""
        ...


@dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may use."""

    jobs: int
    """Worker processes at the same time."""
    memory_bytes: int
    """Sum of their estimated peaks."""
    timeout_s: float
    """Time limit of each piece of work."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What a build did."""

    cells: tuple[Cell, ...]
    """All cells of the plan, as they stand now."""
    ran: tuple[str, ...]
    """Nodes whose work was run and succeeded."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """Cell id → why it failed in this build."""


def build(
    plan: BuildPlan,
    *,
    store: Store,
    ledger: Ledger,
    executor: Executor,
    display: Display,
    limits: BuildLimits,
    known: Mapping[str, Cell],
    stop_after: StopAfter = "evaluated",
) -> BuildSummary:
    """Bring every cell of the plan up to date.

    Args:
        plan: What is wanted.
        store: Where the bytes are.
        ledger: The writer of the database.
        executor: What runs workers.
        display: Who is told.
        limits: What may be used.
        known: Cells that the database holds already, by id.
        stop_after: The last step that is wanted.

    Raises:
        RegistryError: The store or the database cannot be written; what was finished stays recorded.
    """
    began = datetime.now(UTC)
    records = Records(ledger, store)
    watcher = _Watcher(ledger, display)
    progress = [CellProgress(planned) for planned in plan.cells]
    failures: dict[str, Failure] = {}
    cells: dict[str, Cell] = {}

    def settled(cell: CellProgress) -> Callable[[Failure | None], None]:
        def settle(failure: Failure | None) -> None:
            if failure is not None:
                failures[cell.planned.id] = failure
            before = known.get(cell.planned.id)
            declared_at = before.evidence[0].at if before and before.evidence else began
            now = compose_cell(cell, failure, records=records, declared_at=declared_at, at=datetime.now(UTC))
            cells[now.id] = ledger.put_cell(now)

        return settle

    nodes = make_nodes(
        plan,
        progress,
        records=records,
        store=store,
        timeout_s=limits.timeout_s,
        settled=settled,
        toolchain_version=executor.toolchain_version,
        stop_after=stop_after,
    )
    display.total(len(nodes))
    run_graph(nodes, executor=executor, observer=watcher, jobs=limits.jobs, memory_bytes=limits.memory_bytes)
    return BuildSummary(
        cells=tuple(cells[planned.id] for planned in plan.cells), ran=tuple(watcher.ran), failures=failures
    )


class _Watcher:
    """Records outputs in the database as they arrive, and tells the display."""

    def __init__(self, ledger: Ledger, display: Display) -> None:
        self._ledger = ledger
        self._display = display
        self.ran: list[str] = []

    def started(self, node: BuildNode) -> None:
        self._display.started(node.name)

    def event(self, node: BuildNode, event: Event) -> None:
        match event:
            case OutputEvent():
                now = datetime.now(UTC)
                self._ledger.put_stage(
                    BuildRecord(
                        key=event.key,
                        stage=event.stage,
                        output=event.output,
                        seconds=event.seconds,
                        started_at=now - timedelta(seconds=event.seconds),
                        finished_at=now,
                        peak_memory_bytes=event.peak_memory_bytes,
                    )
                )
            case ProgressEvent():
                self._display.progress(node.name, event.text)
            case ErrorEvent():
                if (kind := WORKSPACE_ERRORS.get(event.code)) is not None:
                    # Not this cell's fault: nothing else can be built either.
                    raise kind(event.message, hint=event.hint)
            case FinishEvent():
                pass
            case _:
                assert_never(event)

    def ended(self, node: BuildNode, failure: Failure | None, *, ran: bool) -> None:
        if ran and failure is None:
            self.ran.append(node.name)
        self._display.ended(node.name, failure, ran=ran)


WORKSPACE_ERRORS: dict[str, type[StorageFullError | CorruptError]] = {
    StorageFullError.code: StorageFullError,
    CorruptError.code: CorruptError,
}
