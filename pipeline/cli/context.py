"""What commands share: the workspace they run in, its database, matrix and checkpoints."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.cli import output
from registry.errors import RegistryError, ToolchainMissingError
from registry.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from matrices.cells.cell import Cell
    from matrices.ledger.db import Database
    from matrices.ledger.ledger import Ledger
    from matrices.views.board import Board
    from registry.mlflow import Checkpoints


def this_workspace() -> Workspace:
    """The workspace that contains the current directory.

    Raises:
        ConfigurationError: There is none.
    """
    return find_workspace()


def board() -> Board:
    """The matrix of this workspace, for reading."""
    from matrices.views.board import Board

    return Board(database(this_workspace()))


def database(workspace: Workspace) -> Database:
    """The workspace's database, migrated."""
    from matrices.ledger.db import open_database

    return open_database(workspace.database_url)


def ledger(database: Database) -> Ledger:
    """The writer of a database."""
    from matrices.ledger.ledger import Ledger

    return Ledger(database)


def ruling_ledger(database: Database) -> Ledger:
    """The writer of this workspace's database that signs rulings, once those before are verified."""
    from pipeline.workspace.rulings import ruling_ledger as make

    return make(this_workspace(), database)


def check_results(cells: Iterable[Cell]) -> None:
    """Check that cells of this workspace say what their scorecards show.

    Raises:
        CorruptError: One does not.
    """
    from pipeline.workspace.derive import check_results as check

    check(cells, store=this_workspace().store)


def checkpoints(workspace: Workspace) -> Checkpoints:
    """The workspace's checkpoints in MLflow."""
    from registry.mlflow import Checkpoints

    return Checkpoints(uri=workspace.mlflow_uri, store=workspace.store)


@contextmanager
def publishing_rulings(database: Database) -> Iterator[None]:
    """Note the latest ruling and bring the signed revocation list up to date, also where one was refused.

    A ruling that was killed before this is made again, and refused, and the list is right then.
    """
    from pipeline.publish import publish_revocations
    from pipeline.workspace.rulings import note_rulings

    try:
        yield
    finally:
        publish_revocations(this_workspace(), database)
        note_rulings(this_workspace(), database)


def track(workspace: Workspace, database: Database) -> None:
    """Show the matrix in MLflow, unless `RUNG_MLFLOW_RUNS` is `off`; a failure is noted, not raised."""
    from pipeline.workspace.track import track as bring_up_to_date

    if os.environ.get("RUNG_MLFLOW_RUNS") == "off":
        return
    try:
        tracked = bring_up_to_date(workspace, database=database)
    except (RegistryError, ToolchainMissingError) as error:
        output.note(f"MLflow does not show this yet: {error.message}")
        output.note("hint: `rung matrix track` when it can be reached")
        return
    if tracked.runs:
        output.note(f"{tracked.runs} runs written to MLflow, experiments {', '.join(tracked.experiments)}")
