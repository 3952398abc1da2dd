"""What verbs have in common: the workspace, its database, its checkpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from matrices.ledger.db import Database
    from matrices.ledger.ledger import Ledger
    from registry.mlflow import Checkpoints


def workspace() -> Workspace:
    """The workspace that this directory lies in.

    Raises:
        ConfigurationError: There is none.
    """
    return find_workspace()


def database(place: Workspace) -> Database:
    """The workspace's database, migrated."""
    from matrices.ledger.db import open_database

    return open_database(place.database_url)


def ledger(place: Workspace) -> Ledger:
    """The writer of the workspace's database."""
    from matrices.ledger.ledger import Ledger

    return Ledger(database(place))


def checkpoints(place: Workspace) -> Checkpoints:
    """The workspace's checkpoints in MLflow."""
    from registry.mlflow import Checkpoints

    return Checkpoints(uri=place.mlflow_uri, store=place.store)
