"""Read-only queries of the MLflow model registry, without importing MLflow where that can be avoided.

`import mlflow` and its first query take over 4 s, and every command has to look up which version a name
refers to. So the two usual back ends are read directly: a SQLite file with `sqlite3`, if its tables have the
columns of MLflow 3, and a server through its public REST API
(https://mlflow.org/docs/latest/rest-api.html). Everything else, and every write, goes through MLflow's own
client; a test checks that all three give the same answers.
"""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from registry.errors import RegistryError
from registry.mlflow_client import open_client
from registry.sqlite_url import sqlite_path

_DELETED = "Deleted_Internal"  # MLflow keeps the row of a deleted version under this stage
_COLUMNS: Mapping[str, set[str]] = {
    "registered_models": {"name"},
    "model_versions": {"name", "version", "current_stage", "source", "status"},
    "model_version_tags": {"name", "version", "key", "value"},
    "registered_model_aliases": {"name", "alias", "version"},
}
_CLIENT_ONLY = (
    "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4", "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_WORKSPACE",
)  # fmt: skip
_TIMEOUT_S = 30.0
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of a registered model."""

    name: str
    version: int
    source: str
    """`models:/m-…`, or the location of its files."""
    tags: Mapping[str, str]


class Catalog(Protocol):
    """What a registry can be asked."""

    def names(self) -> list[str]:
        """All registered models, sorted."""
        ...

    def aliases(self, name: str) -> dict[str, int]:
        """Alias → version of a registered model; empty if it has none."""
        ...

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions that are ready, oldest first; empty if the model does not exist."""
        ...


def open_catalog(uri: str) -> Catalog:
    """The fastest catalogue for an MLflow URI that gives the same answers as MLflow."""
    plain = not any(os.environ.get(name) for name in _CLIENT_ONLY)
    path = sqlite_path(uri)
    if path is not None and plain and (not path.exists() or _has_columns(path)):
        return SqliteCatalog(path)
    if uri.startswith(("http://", "https://")) and plain and not _has_credentials_file():
        return _rest_catalog(uri)
    return ClientCatalog(uri)


def _rest_catalog(uri: str) -> RestCatalog:
    parts = urllib.parse.urlsplit(uri.rstrip("/"))
    user, at, place = parts.netloc.rpartition("@")
    url = urllib.parse.urlunsplit(parts._replace(netloc=place))
    return RestCatalog(url, basic=urllib.parse.unquote(user) if at else None)


def _basic(credentials: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials.encode()).decode()}"}


@dataclass(frozen=True, slots=True)
class SqliteCatalog:
    """The registry in a SQLite file, opened read-only."""

    path: Path

    def names(self) -> list[str]:
        """All registered models, sorted."""
        return sorted(row[0] for row in self._rows("SELECT DISTINCT name FROM registered_models"))

    def aliases(self, name: str) -> dict[str, int]:
        """Alias → version of a registered model."""
        rows = self._rows("SELECT alias, version FROM registered_model_aliases WHERE name = ?", name)
        return {alias: int(version) for alias, version in rows}

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions that are ready, oldest first."""
        tags: dict[int, dict[str, str]] = {}
        for number, key, value in self._rows(
            "SELECT version, key, value FROM model_version_tags WHERE name = ?", name
        ):
            tags.setdefault(int(number), {})[key] = value or ""
        rows = self._rows(
            "SELECT version, source FROM model_versions WHERE name = ? AND status = 'READY'"
            " AND coalesce(current_stage, '') <> ? ORDER BY version",
            name,
            _DELETED,
        )
        return [
            ModelVersion(name, int(number), source or "", tags.get(int(number), {}))
            for number, source in rows
        ]

    def _rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:  # Any: SQLite's types
        if not self.path.exists():
            return []
        try:
            return _select(self.path, query, values)
        except sqlite3.Error as error:
            raise RegistryError(
                f"cannot read MLflow's database `{self.path}`: {error}",
                hint="if it is damaged, restore it from a backup and add the checkpoints again",
            ) from error


@dataclass(frozen=True, slots=True)
class RestCatalog:
    """The registry of an MLflow server, through its REST API."""

    url: str
    """Without credentials."""
    basic: str | None = None
    """`user:password` of the URI, which as in MLflow's client go before those of the environment."""

    def names(self) -> list[str]:
        """All registered models, sorted."""
        pages = self._pages("registered-models/search", "registered_models", {})
        return sorted(one["name"] for one in pages)

    def aliases(self, name: str) -> dict[str, int]:
        """Alias → version of a registered model."""
        found = self._get("registered-models/get", {"name": name}).get("registered_model", {})
        return {one["alias"]: int(one["version"]) for one in found.get("aliases", ())}

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions that are ready, oldest first."""
        pages = self._pages("model-versions/search", "model_versions", {"filter": _named(name)})
        found = [
            ModelVersion(
                name=one["name"],
                version=int(one["version"]),
                source=one.get("source", ""),
                tags={tag["key"]: tag.get("value", "") for tag in one.get("tags", ())},
            )
            for one in pages
            if one.get("status", "READY") == "READY"
        ]
        return sorted(found, key=lambda one: one.version)

    def _pages(self, path: str, key: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:  # Any: JSON
        token = ""
        while True:
            page = self._get(
                path, {**query, "max_results": str(_PAGE), **({"page_token": token} if token else {})}
            )
            yield from page.get(key, ())
            token = page.get("next_page_token", "")
            if not token:
                return

    def _get(self, path: str, query: Mapping[str, str]) -> dict[str, Any]:  # Any: JSON
        """The response; empty where the server says that the resource does not exist."""
        url = f"{self.url}/api/2.0/mlflow/{path}?{urllib.parse.urlencode(query)}"
        headers = _authorisation() if self.basic is None else _basic(self.basic)
        request = urllib.request.Request(url, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404 and b"RESOURCE_DOES_NOT_EXIST" in error.read():
                    return {}
            raise RegistryError(
                f"MLflow at `{self.url}` answered {error.code} {error.reason}",
                hint="check the URI and the credentials (MLFLOW_TRACKING_TOKEN, MLFLOW_TRACKING_USERNAME …)",
            ) from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise RegistryError(
                f"cannot reach MLflow at `{self.url}`: {reason}", hint="start the server, or correct the URI"
            ) from error


@dataclass(frozen=True, slots=True)
class ClientCatalog:
    """The registry through MLflow's own client: any back end, over 4 s to start."""

    uri: str

    def names(self) -> list[str]:
        """All registered models, sorted."""
        with open_client(self.uri) as client:
            return sorted(one.name for one in _all(client.search_registered_models))

    def aliases(self, name: str) -> dict[str, int]:
        """Alias → version of a registered model."""
        with open_client(self.uri) as client:
            found = client.search_registered_models(filter_string=_named(name))
            return {alias: int(version) for one in found for alias, version in one.aliases.items()}

    def versions(self, name: str) -> list[ModelVersion]:
        """All versions that are ready, oldest first."""
        with open_client(self.uri) as client:
            found = [
                ModelVersion(name, int(one.version), one.source or "", dict(one.tags))
                for one in _all(client.search_model_versions, filter_string=_named(name))
                if one.status == "READY"
            ]
        return sorted(found, key=lambda one: one.version)


def _named(name: str) -> str:
    """The filter for one name, in quotes that it does not hold."""
    quote = '"' if "'" in name else "'"
    return f"name={quote}{name}{quote}"


def _all(search: Callable[..., Any], **query: str) -> Iterator[Any]:  # Any: MLflow is untyped
    token = None
    while True:
        page = search(max_results=_PAGE, page_token=token, **query)
        yield from page
        token = page.token
        if not token:
            return


def _select(path: Path, query: str, values: tuple[str, ...]) -> list[tuple[Any, ...]]:  # Any: SQLite's types
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_TIMEOUT_S)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _has_columns(path: Path) -> bool:
    """Whether the tables have the columns this module reads, and hold a single workspace."""
    try:
        for table, columns in _COLUMNS.items():
            found = {row[0] for row in _select(path, "SELECT name FROM pragma_table_info(?)", (table,))}
            if not columns <= found:
                return False
            if table == "registered_models" and "workspace" in found:
                rows = _select(path, "SELECT DISTINCT workspace FROM registered_models", ())
                if {row[0] for row in rows} - {"default"}:
                    return False
    except sqlite3.Error:
        return False
    return True


def _authorisation() -> dict[str, str]:
    token = os.environ.get("MLFLOW_TRACKING_TOKEN")
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    if user:
        return _basic(f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}")
    return {"Authorization": f"Bearer {token}"} if token else {}


def _has_credentials_file() -> bool:
    return (Path.home() / ".mlflow" / "credentials").exists()
