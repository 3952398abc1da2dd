"""What the command line calls: whole verbs as functions over a workspace."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from matrices.db import open_database
from matrices.ledger import Ledger
from matrices.query import cells
from pipeline.build import Display, Limits, Report, build
from pipeline.executors.local import LocalExecutor, remove_stale_scratch
from pipeline.plan import Filters, Plan, make_plan
from registry.errors import ConfigurationError
from registry.ladder import read_ladder
from registry.mlflow import Checkpoints
from registry.store import Store
from registry.workspace import Workspace
from serving.host import this_host


@dataclass(frozen=True, slots=True)
class Options:
    """What a build may use."""

    jobs: int
    memory_gib: float
    """0: three quarters of this machine's."""
    timeout_s: float


def build_ladder(
    place: Workspace, ladder_file: Path, *, filters: Filters, options: Options, display: Display
) -> Report:
    """Bring every cell of a ladder up to date.

    Raises:
        ConfigurationError: The ladder is wrong, or another build runs in this workspace.
        NotFoundError: A checkpoint is not registered.
        RegistryError: The store or the database cannot be used.
    """
    ladder = read_ladder(ladder_file)
    with _build_lock(place):
        scratch = place.state / "scratch"
        remove_stale_scratch(scratch)
        checkpoints = Checkpoints(uri=place.mlflow_uri, store=place.store)
        plan = make_plan(ladder, directory=ladder_file.resolve().parent, filters=filters, checkpoints=checkpoints)
        _bring_here(plan, checkpoints=checkpoints, store=place.store)
        memory = int(options.memory_gib * (1 << 30)) or this_host().memory_bytes * 3 // 4
        database = open_database(place.database_url)
        known = {cell.id: cell for cell in cells(database, family=ladder.family)}
        return build(
            plan, store=place.store, ledger=Ledger(database), known=known,
            executor=LocalExecutor(place.store, scratch=scratch), display=display,
            limits=Limits(jobs=options.jobs, memory_bytes=memory, timeout_s=options.timeout_s),
        )  # fmt: skip


def _bring_here(plan: Plan, *, checkpoints: Checkpoints, store: Store) -> None:
    """Fetch from MLflow what the store lacks of the checkpoints, such as those that another machine registered."""
    for checkpoint in plan.checkpoints:
        if not all(store.has(entry.digest) for entry in checkpoint.files):
            with tempfile.TemporaryDirectory() as scratch:
                checkpoints.materialise(checkpoint, out=Path(scratch) / "checkpoint")


@contextlib.contextmanager
def _build_lock(place: Workspace) -> Iterator[None]:
    """One build at a time in a workspace; the lock dies with its process."""
    path = place.state / "build.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigurationError(
                f"another build is running in workspace `{place.root}`", hint="wait for it, or use another workspace"
            ) from None
        yield
    finally:
        os.close(handle)
