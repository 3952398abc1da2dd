"""What verbs have in common: the workspace, its database, its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from matrices.ledger import Ledger
    from matrices.query import Query
    from registry.mlflow import Checkpoints


def workspace() -> Workspace:
    """The workspace that this directory lies in.

    Raises:
        ConfigurationError: There is none.
    """
    return find_workspace()


def ledger(place: Workspace) -> Ledger:
    """The writer of the workspace's database."""
    from matrices.db import open_database
    from matrices.ledger import Ledger

    return Ledger(open_database(place.database_url))


def query(place: Workspace) -> Query:
    """The reader of the workspace's database."""
    from matrices.db import open_database
    from matrices.query import Query

    return Query(open_database(place.database_url))


def checkpoints(place: Workspace) -> Checkpoints:
    """The workspace's checkpoints in MLflow."""
    from registry.mlflow import Checkpoints

    return Checkpoints(uri=place.mlflow_uri, store=place.store)
