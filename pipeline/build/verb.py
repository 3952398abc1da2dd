"""What the command line calls: whole verbs as functions over a workspace."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

from matrices.ledger.db import Database, open_database
from matrices.ledger.ledger import Ledger
from matrices.ledger.query import cells
from pipeline.build.build import BuildLimits, BuildSummary, Display, build
from pipeline.build.nodes import StopAfter
from pipeline.build.plan import BuildPlan, Filters, make_plan
from pipeline.executors.interface import Executor
from pipeline.executors.local import LocalExecutor
from pipeline.executors.scratch import remove_stale_scratch
from pipeline.workspace.locks import alone, build_lock, writing
from pipeline.workspace.upkeep import drop_unused
from registry.ladder import read_ladder
from registry.mlflow import Checkpoints
from registry.store import Store
from registry.workspace import Workspace
from serving.node.host import this_host


@dataclass(frozen=True, slots=True)
class Options:
    """What a build may use."""

    jobs: int
    """0: as many as there are processors."""
    memory_gib: float
    """0: three quarters of this machine's, or all that the Ray cluster plans with."""
    timeout_s: float
    executor: Literal["local", "ray"] = "local"
    stop_after: StopAfter = "evaluated"


def build_ladder(
    workspace: Workspace, ladder_file: Path, *, filters: Filters, options: Options, display: Display
) -> BuildSummary:
    """Bring every cell of a ladder up to date.

    Raises:
        ConfigurationError: The ladder is wrong, or another build runs in this workspace.
        NotFoundError: A checkpoint is not registered.
        RegistryError: The store or the database cannot be used.
    """
    ladder = read_ladder(ladder_file)
    checkpoints = Checkpoints(uri=workspace.mlflow_uri, store=workspace.store)
    with build_lock(workspace):
        database = open_database(workspace.database_url)
        with writing(workspace):
            plan = make_plan(
                ladder, directory=ladder_file.resolve().parent, filters=filters, checkpoints=checkpoints
            )
            _bring_here(plan, checkpoints=checkpoints, store=workspace.store)
            report = _run(workspace, plan, database=database, options=options, display=display)
        if report.ran or report.failures or workspace.dirty_marker.exists():
            tidy(workspace, database=database, checkpoints=checkpoints)
    return report


def tidy(workspace: Workspace, *, database: Database, checkpoints: Checkpoints) -> None:
    """Remove what killed or failed work left behind; does nothing while somebody else adds to the store."""
    with alone(workspace) as nobody_writes:
        if nobody_writes:
            remove_stale_scratch(workspace.scratch)
            drop_unused(workspace, database=database, checkpoints=checkpoints)
            workspace.dirty_marker.unlink(missing_ok=True)


def _run(
    workspace: Workspace, plan: BuildPlan, *, database: Database, options: Options, display: Display
) -> BuildSummary:
    scratch = workspace.scratch
    remove_stale_scratch(scratch)
    executor, limits = _executor(workspace, options, scratch=scratch)
    return build(
        plan,
        store=workspace.store,
        ledger=Ledger(database),
        known={cell.id: cell for cell in cells(database, family=plan.ladder.family)},
        executor=executor,
        display=display,
        limits=limits,
        stop_after=options.stop_after,
    )


def _executor(workspace: Workspace, options: Options, *, scratch: Path) -> tuple[Executor, BuildLimits]:
    given = int(options.memory_gib * (1 << 30))
    jobs = options.jobs or os.cpu_count() or 1
    match options.executor:
        case "local":
            memory = given or this_host().memory_bytes * 3 // 4
            local = LocalExecutor(
                workspace.store, scratch=scratch, dirty_marker=workspace.dirty_marker, memory_bytes=memory
            )
            return local, BuildLimits(jobs=jobs, memory_bytes=memory, timeout_s=options.timeout_s)
        case "ray":
            from pipeline.executors.ray import RayExecutor

            ray = RayExecutor(
                workspace.store,
                scratch=scratch,
                dirty_marker=workspace.dirty_marker,
                memory_bytes=given or None,
            )
            memory = given or ray.cluster_memory_bytes
            jobs = options.jobs or ray.jobs
            return ray, BuildLimits(jobs=jobs, memory_bytes=memory, timeout_s=options.timeout_s)
        case _:
            assert_never(options.executor)


def _bring_here(plan: BuildPlan, *, checkpoints: Checkpoints, store: Store) -> None:
    """Fetch from MLflow what the store lacks of checkpoints, such as those that others registered."""
    for checkpoint in plan.checkpoints:
        if not all(store.has(entry.digest) for entry in checkpoint.files):
            with tempfile.TemporaryDirectory() as scratch:
                checkpoints.materialise(checkpoint, out=Path(scratch) / "checkpoint")
