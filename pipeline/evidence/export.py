"""From a workspace to a kit: a target's artifacts that wait for evidence, with all that the run needs."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from evals.scorecard import Scorecard
from matrices.cells.cell import Cell, State
from matrices.ledger import query
from matrices.ledger.db import Database, open_database
from matrices.ledger.ledger import Ledger
from pipeline.build.plan import BuildPlan, Filters, make_plan
from pipeline.build.plan_records import ExaminationInputs, PlanRecords, find_inputs
from pipeline.build.records import Records
from pipeline.kit import DIRECTORY, Kit, KitSubject, KitTask, write_kit
from registry.checkpoint import FileEntry
from registry.errors import NotFoundError, UnknownNameError
from registry.ladder import read_ladder
from registry.mlflow import Checkpoints
from registry.store import Store
from registry.workspace import Workspace

PENDING: Final[tuple[State, ...]] = (
    "portable", "built", "loads", "close", "evaluated", "expired", "failed",
)  # fmt: skip
"""States in which an artifact waits for evidence of its chip."""


def make_kit(
    plan: BuildPlan, *, target: str, workspace: Workspace, database: Database, everything: bool = False
) -> Kit:
    """The kit of a target: its artifacts without whole evidence.

    Args:
        plan: The ladder.
        target: Of the ladder's.
        workspace: The workspace.
        database: The workspace's.
        everything: Those with whole evidence too; what a person refused is never in it.

    Raises:
        UnknownNameError: The ladder has no such target.
        NotFoundError: No artifact of it waits for evidence, or what the run needs was never made.
    """
    if target not in plan.ladder.targets:
        raise UnknownNameError.of("target", target, known=plan.ladder.targets, where="this ladder")
    wanted = _wanted(plan, target=target, database=database, everything=everything)
    found = PlanRecords.here(plan, Records(Ledger(database), workspace.store))
    subjects: list[KitSubject] = []
    references: dict[str, tuple[str, ...]] = {}
    for planned in plan.cells:
        cell = wanted.get(planned.id)
        if cell is None or cell.artifact is None or not workspace.store.has_artifact(cell.artifact):
            continue
        inputs = find_inputs(planned, found=found)
        if inputs is None:
            raise NotFoundError(
                f"the probe or references of `{planned.id}` are not on record as the ladder is now",
                hint="run `rung build LADDER` first; it makes them on this machine",
            )
        references = dict(inputs.references)
        subjects.append(_subject(cell, cell.artifact, inputs, store=workspace.store))
    if not subjects:
        raise NotFoundError(
            f"no artifact of `{target}` waits for evidence",
            hint="`rung matrix show --target` shows the state of its cells; `--all` includes them all",
        )
    tasks = tuple(
        _task(plan, name, references=references[name], store=workspace.store) for name in plan.ladder.task
    )
    return Kit(
        target=target,
        family=plan.ladder.family,
        evaluation=plan.ladder.evaluation,
        tasks=tasks,
        subjects=tuple(sorted(subjects, key=lambda one: one.cell)),
        blobs=tuple(_blobs(subjects, tasks, store=workspace.store)),
    )


def make_ladder_kit(ladder: Path, *, target: str, workspace: Workspace, everything: bool = False) -> Kit:
    """The kit of a target of a ladder file, from a workspace; see `make_kit`."""
    plan = make_plan(
        read_ladder(ladder),
        directory=ladder.resolve().parent,
        checkpoints=Checkpoints(uri=workspace.mlflow_uri, store=workspace.store),
        filters=Filters(),
    )
    database = open_database(workspace.database_url)
    return make_kit(plan, target=target, workspace=workspace, database=database, everything=everything)


def issue_kit(kit: Kit, *, workspace: Workspace) -> Path:
    """Record in the workspace that it issued a kit; its directory there."""
    return write_kit(kit, kits=workspace.kits, private_key=workspace.private_key)


def export_kit(kit: Kit, *, workspace: Workspace, out: Path) -> Path:
    """Write a kit with all its blobs into a directory that can be carried to a node; may hold other kits.

    Raises:
        StorageFullError: No space left.
        CorruptError: A blob of the workspace is damaged.
    """
    issue_kit(kit, workspace=workspace)
    store = Store.create(out / "store")
    for entry in kit.blobs:
        _copy(entry, source=workspace.store, store=store)
    for subject in kit.subjects:
        for entry in subject.manifest.files:
            _copy(entry, source=workspace.store, store=store)
        store.put_artifact(subject.manifest)
    return write_kit(kit, kits=out / DIRECTORY, private_key=workspace.private_key)


def _wanted(plan: BuildPlan, *, target: str, database: Database, everything: bool) -> dict[str, Cell]:
    planned = {one.id for one in plan.cells if one.target.name == target}
    found = query.cells(database, family=plan.ladder.family, target=target)
    states = (*PENDING, "benchmarked", "approved") if everything else PENDING
    return {cell.id: cell for cell in found if cell.id in planned and cell.state in states}


def _subject(cell: Cell, artifact: str, inputs: ExaminationInputs, *, store: Store) -> KitSubject:
    return KitSubject(
        cell=cell.id,
        manifest=store.find_artifact(artifact),
        variant_probe=inputs.variant_probe,
        checkpoint_probe=inputs.checkpoint_probe,
    )


def _task(plan: BuildPlan, name: str, *, references: tuple[str, ...], store: Store) -> KitTask:
    entry = plan.ladder.task[name]
    card = Scorecard.model_validate_json(store.read_bytes(references[0]))
    files: tuple[FileEntry, ...] = ()
    if entry.include is not None:
        folder = plan.directory / entry.include
        paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
        files = tuple(
            store.add_file(path).at(path.relative_to(folder).as_posix())
            for path in paths
            if "__pycache__" not in path.parts
        )
    return KitTask(
        task_type=name,
        entry=entry,
        bars=plan.bars(name),
        references=references,
        tasks_digest=card.tasks_digest,
        files=files,
    )


def _blobs(subjects: Iterable[KitSubject], tasks: Iterable[KitTask], *, store: Store) -> list[FileEntry]:
    digests: dict[str, str] = {}
    for subject in subjects:
        for probe in (subject.variant_probe, subject.checkpoint_probe):
            blobs = (probe.tokens, probe.logits, probe.float_error)
            digests |= {digest: "probe" for digest in blobs if digest is not None}
    for task in tasks:
        digests |= dict.fromkeys(task.references, "reference")
        digests |= {file.digest: "task" for file in task.files}
    return [
        FileEntry(
            path=f"{kind}/{digest.removeprefix('sha256:')}",
            digest=digest,
            size_bytes=store.path(digest).stat().st_size,
        )
        for digest, kind in sorted(digests.items())
    ]


def _copy(entry: FileEntry, *, source: Store, store: Store) -> None:
    if not store.has(entry.digest):
        source.read_bytes(entry.digest)  # checks it
        store.add_file(source.path(entry.digest))
