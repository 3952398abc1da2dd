"""`rung build`: brings every cell of a ladder up to date, and does nothing twice.

Makes the nodes of the ladder's plan, runs the graph, and composes the cells. What has a record whose bytes
are still in the store is not done again, so the same command resumes a build that was killed.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, assert_never

from evals.checks.ladder import check_ladder
from matrices.cells.cell import Cell
from matrices.ledger.db import Database, open_database
from matrices.ledger.ledger import Ledger
from matrices.ledger.query import cells
from pipeline.build.cell_progress import CellProgress
from pipeline.build.compose import compose_cell
from pipeline.build.graph import run_graph
from pipeline.build.judge_again import cell_judged_again
from pipeline.build.nodes import StopAfter, make_nodes, recorded_progress
from pipeline.build.plan import BuildPlan, Filters, make_plan
from pipeline.build.plan_records import PlanRecords
from pipeline.build.recorder import Display, Recorder
from pipeline.build.records import Records
from pipeline.consents import allowed_code
from pipeline.executors.interface import Executor, Failure
from pipeline.executors.local import LocalExecutor
from pipeline.executors.scratch import remove_stale_scratch
from pipeline.workspace.locks import alone, build_lock, writing
from pipeline.workspace.upkeep import drop_unused, lost_blobs
from registry.damaged import remove_damaged
from registry.digest import Digest
from registry.errors import RungError
from registry.ladder import read_ladder
from registry.mlflow import Checkpoints
from registry.store import Store
from registry.upkeep import drop_broken_images
from registry.user_cache import user_cache
from registry.workspace import Workspace
from serving.node.host import this_host


@dataclass(frozen=True, slots=True)
class Options:
    """How a person wants a build to run."""

    jobs: int
    """0: as many as there are processors."""
    memory_gib: float
    """0: three quarters of this machine's, or all that the Ray cluster plans with."""
    timeout_s: float
    executor: Literal["local", "ray"] = "local"
    stop_after: StopAfter = "evaluated"
    allow_code: tuple[str, ...] = ()
    """Beginnings of digests of code in task files that the person allows to run."""


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
    """All cells of the plan, as they are now."""
    ran: tuple[str, ...]
    """Nodes whose work was run and succeeded."""
    failures: Mapping[str, Failure] = field(default_factory=dict)
    """Cell id → why it failed in this build."""
    judged_again: tuple[str, ...] = ()
    """Cells with new verdicts from outcomes that were stored before."""
    damaged: tuple[str, ...] = ()
    """Digests of blobs that did not have their digest; they were removed, and made again where possible."""
    lost: tuple[str, ...] = ()
    """Blobs that something in the workspace needs and this build could not make again, one sentence each."""


def build_ladder(
    workspace: Workspace, ladder_file: Path, *, filters: Filters, options: Options, display: Display
) -> BuildSummary:
    """Bring every cell of a ladder up to date.

    Raises:
        ConfigurationError: The ladder is wrong, a task type of it cannot be evaluated or has too few samples
            for its margin, or another build runs in this workspace.
        NotFoundError: A checkpoint is not registered.
        RefusedError: A task type's files name code that nobody has allowed on this machine.
        RegistryError: The store or the database cannot be used; what was finished is recorded.
    """
    ladder, directory = read_ladder(ladder_file), ladder_file.resolve().parent
    for warning in check_ladder(ladder, directory=directory, cache=user_cache()):
        display.note(warning)
    checkpoints = Checkpoints(uri=workspace.mlflow_uri, store=workspace.store)
    with build_lock(workspace):
        database = open_database(workspace.database_url)
        with writing(workspace):
            plan = make_plan(ladder, directory=directory, filters=filters, checkpoints=checkpoints)
            plan = replace(plan, code=_allowed_code(plan, options, workspace=workspace))
            damaged = remove_damaged(workspace.store)
            drop_broken_images(workspace.store)
            for checkpoint in plan.checkpoints:
                checkpoints.bring_here(checkpoint)
            remove_stale_scratch(workspace.scratch)
            executor, limits = _executor(workspace, options)
            summary = build(
                plan,
                store=workspace.store,
                ledger=Ledger(database),
                known={cell.id: cell for cell in cells(database, family=plan.ladder.family)},
                executor=executor,
                display=display,
                limits=limits,
                stop_after=options.stop_after,
            )
        if summary.ran or summary.failures or workspace.dirty_marker.exists():
            tidy(workspace, database=database, checkpoints=checkpoints)
        if summary.ran or damaged:
            remove_damaged(workspace.store)  # what the build has made is read while it is in memory
    lost = lost_blobs(
        workspace.store, database=database, checkpoints=plan.checkpoints, cells={c.id for c in plan.cells}
    )
    return replace(summary, damaged=tuple(damaged), lost=tuple(lost))


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
    """Bring every cell of a plan up to date.

    Args:
        plan: What is wanted.
        store: Where the bytes are.
        ledger: The writer of the database.
        executor: What runs workers.
        display: Shows progress.
        limits: What may be used.
        known: Cells that the database holds already, by id.
        stop_after: The last step that is wanted.

    Raises:
        RegistryError: The store or the database cannot be written; what was finished is recorded.
    """
    began = datetime.now(UTC)
    recorder = Recorder(ledger, display, store=store)
    failures: dict[str, Failure] = {}
    done: dict[str, Cell] = {}

    def on_cell(progress: CellProgress, failure: Failure | None) -> None:
        cell_id = progress.planned.id
        if failure is not None:
            failures[cell_id] = failure
        before = known.get(cell_id)
        declared_at = before.evidence[0].at if before and before.evidence else began
        cell = compose_cell(progress, failure, declared_at=declared_at, at=datetime.now(UTC), before=before)
        done[cell_id] = ledger.put_cell(cell)
        if progress.cannot_run and (again := cell_judged_again(done[cell_id], found=found, at=began)):
            done[cell_id] = ledger.put_cell(again)

    found = PlanRecords.here(plan, Records(ledger, store))
    nodes = make_nodes(
        found,
        store=store,
        timeout_s=limits.timeout_s,
        on_cell=on_cell,
        toolchain_version=executor.toolchain_version,
        stop_after=stop_after,
    )
    display.total(len(nodes))
    try:
        run_graph(
            nodes, executor=executor, observer=recorder, jobs=limits.jobs, memory_bytes=limits.memory_bytes
        )
    except (KeyboardInterrupt, RungError):
        with contextlib.suppress(RungError):  # what ended the build may end this too; records are there
            for progress in recorded_progress(found, toolchain_version=executor.toolchain_version):
                if progress.manifest is not None and progress.planned.id not in done:
                    on_cell(progress, None)
            display.note(f"kept what was reached: {in_words(done.values())}")
        raise
    evaluated = {name for name in recorder.ran if name.startswith("examine ")}
    return BuildSummary(
        cells=tuple(done[planned.id] for planned in plan.cells),
        ran=tuple(recorder.ran),
        failures=failures,
        judged_again=tuple(
            name
            for name, cell in done.items()
            if (before := known.get(name))
            and before.tasks != cell.tasks
            and f"examine {name}" not in evaluated
        ),
    )


def in_words(made: Iterable[Cell]) -> str:
    """Cells by their states: `16 approved, 4 evaluated`."""
    counts = Counter(cell.state for cell in made)
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "no cell"


def tidy(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> None:
    """Remove what killed or failed work left behind; does nothing while somebody else adds to the store."""
    with alone(workspace) as nobody_writes:
        if nobody_writes:
            remove_stale_scratch(workspace.scratch)
            drop_unused(workspace, database=database, checkpoints=checkpoints)
            workspace.dirty_marker.unlink(missing_ok=True)


def _allowed_code(plan: BuildPlan, options: Options, *, workspace: Workspace) -> dict[str, Digest]:
    """Task type → the digest of its code; only an evaluation runs any."""
    if options.stop_after == "built":
        return {}
    return allowed_code(
        plan.ladder.task,
        directory=plan.directory,
        record=workspace.consents,
        given=options.allow_code,
        how="rung build LADDER",
    )


def _executor(workspace: Workspace, options: Options) -> tuple[Executor, BuildLimits]:
    given = int(options.memory_gib * (1 << 30))
    store, scratch, marker = workspace.store, workspace.scratch, workspace.dirty_marker
    match options.executor:
        case "local":
            memory = given or this_host().memory_bytes * 3 // 4
            local = LocalExecutor(store, scratch=scratch, dirty_marker=marker, memory_bytes=memory)
            jobs = options.jobs or os.cpu_count() or 1
            return local, BuildLimits(jobs=jobs, memory_bytes=memory, timeout_s=options.timeout_s)
        case "ray":
            from pipeline.executors.ray import RayExecutor

            ray = RayExecutor(store, scratch=scratch, dirty_marker=marker, memory_bytes=given or None)
            memory = given or ray.cluster_memory_bytes
            jobs = options.jobs or ray.jobs
            return ray, BuildLimits(jobs=jobs, memory_bytes=memory, timeout_s=options.timeout_s)
        case _:
            assert_never(options.executor)
