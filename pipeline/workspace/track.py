"""Show the matrix in MLflow: one run for each cell's artifact, in an experiment for each family.

MLflow's client takes seconds to start, so what was written is remembered in the workspace, and MLflow is
opened only for cells that differ. The memory may be lost at any time: runs are found again in MLflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from matrices.cells.cell import Cell
from matrices.ledger import query
from matrices.ledger.db import Database
from matrices.views.runs import cell_run
from registry.atomic import file_lock, write_atomically
from registry.catalog import open_catalog
from registry.digest import canonical_json, digest_value
from registry.document import Document
from registry.errors import SchemaError
from registry.mlflow_runs import RunRecord, write_runs
from registry.tags import PREFIX
from registry.workspace import Workspace


class _Memory(Document):
    """What MLflow is known to show."""

    KIND: ClassVar[str] = "list of MLflow runs"
    RENEW: ClassVar[str] = "remove it: it is made again"

    schema_version: Literal[1] = 1
    mlflow: str = ""
    """Digest of the MLflow URI."""
    shown: dict[str, str] = Field(default={})
    """Cell id → digest of what its run says."""


@dataclass(frozen=True, slots=True)
class Tracked:
    """What was brought up to date."""

    runs: int
    """Written."""
    cells: int
    """That have a run."""
    experiments: tuple[str, ...]


def experiment_of(family: str) -> str:
    """The experiment of a family's cells."""
    return f"rung/{family}"


def track(workspace: Workspace, *, database: Database) -> Tracked:
    """Bring MLflow's runs up to date with the matrix; opens MLflow only if a cell changed.

    Raises:
        ToolchainMissingError: MLflow is not installed.
        RegistryError: MLflow refused, or cannot be reached; the next call goes on.
    """
    with file_lock(workspace.state / "mlflow-runs.lock"):
        records = _records(query.cells(database), workspace=workspace, database=database)
        memory = _read(workspace)
        written = 0
        for family, all_of_it in records.items():
            changed = [one for one in all_of_it if memory.shown.get(one.subject) != one.content]
            if changed:
                written += write_runs(workspace.mlflow_uri, changed, experiment=experiment_of(family))
                shown = memory.shown | {one.subject: one.content for one in changed}
                memory = memory.model_copy(update={"shown": shown})
                write_atomically(_path(workspace), canonical_json(memory.content))
    return Tracked(
        runs=written,
        cells=sum(map(len, records.values())),
        experiments=tuple(experiment_of(family) for family in records),
    )


def _records(
    cells: Iterable[Cell], *, workspace: Workspace, database: Database
) -> dict[str, list[RunRecord]]:
    """Family → the records of its cells."""
    catalog, rulings = open_catalog(workspace.mlflow_uri), query.rulings(database)
    sources: dict[str, tuple[str, str | None]] = {}
    found: dict[str, list[RunRecord]] = {}
    for cell in cells:
        name, _, _ = cell.checkpoint.rpartition("/")
        if cell.checkpoint not in sources:
            sources |= {
                f"{name}/{one.version}": (one.source, one.tags.get(f"{PREFIX}parent"))
                for one in catalog.versions(name)
            }
        source, parent = sources.setdefault(cell.checkpoint, ("", None))
        record = cell_run(cell, ruling=rulings.get(cell.id), checkpoint_source=source or None, parent=parent)
        if record is not None:
            found.setdefault(cell.family, []).append(record)
    return found


def _read(workspace: Workspace) -> _Memory:
    where = digest_value(workspace.mlflow_uri)
    path = _path(workspace)
    try:
        memory = _Memory.parse(path.read_bytes(), where=str(path))
    except (OSError, SchemaError):
        memory = _Memory()
    return memory if memory.mlflow == where else _Memory(mlflow=where)


def _path(workspace: Workspace) -> Path:
    return workspace.state / "mlflow-runs.json"
