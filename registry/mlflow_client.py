"""MLflow's own client, opened quietly: the only module that imports `mlflow`.

MLflow keeps the tracking URI in a global and in the environment, and looks it up there even when a client has
its own (`create_model_version`, downloads of `models:/…`), so both are set while a client is open and
restored afterwards. A SQLite database is created under another name and renamed, because MLflow's migrations
are not transactional: a process killed during one would leave a database that cannot be opened.
"""

from __future__ import annotations

import errno
import logging
import os
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from registry.atomic import directory_lock, scratch_directory, storage_errors, sweep
from registry.errors import RegistryError, RungError, StorageFullError, ToolchainMissingError
from registry.sqlite_url import SQLITE, sqlite_path, sqlite_url

EXPERIMENT: Final = "rung"
"""MLflow experiment that holds the logged models of checkpoints."""
Client = Any
"""`mlflow.MlflowClient`, which is untyped."""
LoggedModel = Any
"""`mlflow.entities.LoggedModel`, which is untyped."""
Module = Any
"""The module `mlflow`, which is untyped."""
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # its default takes minutes to report that the server is down
}


@contextmanager
def open_client(uri: str) -> Iterator[Client]:
    """An `MlflowClient` for a URI, whose errors become Rung's.

    Raises:
        ToolchainMissingError: MLflow is not installed.
        StorageFullError: No space left for its database or artifacts.
        RegistryError: MLflow refused, or cannot be reached.
    """
    mlflow = _import_mlflow()
    path = sqlite_path(uri)
    if path is not None:
        _prepare_sqlite(path)
    own = _own_form(uri)
    with _errors(uri), _at(mlflow, own), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow and its dependencies emit deprecation warnings on every call
        yield mlflow.MlflowClient(tracking_uri=own, registry_uri=own)


def download(uri: str, *, name: str, version: int, out: Path) -> None:
    """Download the files of a model version into the directory `out`.

    By the place where they are, because MLflow reads `?` and `#` in `models:/name/version` as parts of a URL.

    Raises:
        RegistryError: It does not exist or cannot be fetched.
        StorageFullError: No space left.
    """
    _import_mlflow()
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with open_client(uri) as client:
        source = client.get_model_version_download_uri(name, str(version))
        with storage_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        repository = get_artifact_repository(source)
        repository.download_artifacts(artifact_path="", dst_path=str(out))


def experiment_id(client: Client, uri: str, *, name: str = EXPERIMENT) -> str:
    """The id of an experiment, by default of the one that holds checkpoints; created if missing."""
    found = client.get_experiment_by_name(name)
    if found is None:
        location = _artifacts(uri)
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another process may have created it first
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def local_directory(location: str) -> Path | None:
    """The directory on this machine that an artifact location names; None: it is elsewhere."""
    parts = urllib.parse.urlsplit(location)
    match parts.scheme:
        case "file" if parts.netloc in ("", "localhost"):
            return Path(urllib.request.url2pathname(parts.path))
        case "" if parts.path.startswith("/"):
            return Path(location)
        case _:
            return None


def _import_mlflow() -> Module:
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import mlflow
    except ImportError as error:
        raise ToolchainMissingError("MLflow is not installed", hint="install `rung[build]`") from error
    return mlflow


@contextmanager
def _at(mlflow: Module, uri: str) -> Iterator[None]:
    names = ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")
    before = {name: os.environ.get(name) for name in names}
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        mlflow.set_registry_uri(None)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _errors(uri: str) -> Iterator[None]:
    """Turn what MLflow raises into Rung's errors: its own, SQLAlchemy's, those of its HTTP client."""
    try:
        yield
    except RungError:
        raise
    except Exception as error:  # MLflow's edge: each back end raises its own errors
        text = " ".join(str(error).split())[:300]
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        if full or "disk is full" in text or "No space left" in text:
            raise StorageFullError(
                f"MLflow at `{uri}` cannot write: no space left",
                hint="free space, then run the same command again",
            ) from error
        raise RegistryError(
            f"MLflow at `{uri}` failed: {text or type(error).__name__}",
            hint="check that the server (or database) is up and that you may write to it, then run again",
        ) from error


def _prepare_sqlite(path: Path) -> None:
    """Create MLflow's database unless it exists; whole or not at all."""
    if path.exists():
        return
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent, name=path.name)
    with scratch_directory(path.parent, name=path.name) as scratch:
        draft = scratch / path.name
        _make_database(_own_form(sqlite_url(draft)), artifacts=_artifacts(sqlite_url(path)))
        with storage_errors(path), directory_lock(path.parent):
            if not path.exists():
                draft.rename(path)


def _make_database(uri: str, *, artifacts: str | None) -> None:
    with _errors(uri), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = SqlAlchemyStore(uri, artifacts)
        store.engine.dispose()


def _artifacts(uri: str) -> str | None:
    """Location of a local registry's files; None: the server decides."""
    path = sqlite_path(uri)
    return None if path is None else (path.parent / "mlflow-artifacts").absolute().as_uri()


def _own_form(uri: str) -> str:
    """The URI as MLflow takes it.

    For `sqlite:///` it makes the parent directory itself and does not read escapes there
    (`mlflow/store/db/utils.py`, `_make_parent_dirs_if_sqlite`), which leaves an empty `a%3Fb` beside `a?b`.
    With the driver named it does not.
    """
    return uri.replace(SQLITE, "sqlite+pysqlite:///", 1) if uri.startswith(SQLITE) and "%" in uri else uri
