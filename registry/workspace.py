"""The workspace: where a team's store, database, MLflow registry and keys are.

`rung init` makes one: `rung.toml`, which a person may edit and commit, and `.rung/`, which holds everything
else and is never committed. Every command looks for `rung.toml` in the current directory and those above it.

Environment: `RUNG_WORKSPACE` names the directory; `RUNG_DATABASE_URL` and `MLFLOW_TRACKING_URI` override the
corresponding settings.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, ValidationError

from registry.atomic import storage_errors, write_atomically
from registry.errors import ConfigurationError
from registry.signing import generate_keys
from registry.sqlite_url import below, sqlite_path
from registry.store import Store
from registry.value import Value, configuration_error

SETTINGS_NAME = "rung.toml"
STATE_NAME = ".rung"

_TEMPLATE = """\
# Settings of a Rung workspace. Relative paths start at this file's directory.
# RUNG_DATABASE_URL and MLFLOW_TRACKING_URI take the place of the settings here.

store = ".rung/store"                        # content store, an OCI image layout
database_url = "sqlite:///.rung/rung.db"     # cells and evidence; postgresql+psycopg://… for a team
mlflow_uri = "sqlite:///.rung/mlflow.db"     # checkpoints; http://… for a team's MLflow server
private_key = ".rung/keys/rung.key"          # signs releases; keep it secret
public_key = ".rung/keys/rung.pub"           # verifies them; give it to the nodes
trusted_keys = ".rung/keys/nodes"            # public keys of nodes whose evidence is taken
"""


class Settings(Value):
    """What `rung.toml` holds."""

    store: str = Field(default=".rung/store", min_length=1)
    """Directory of the content store."""
    database_url: str = Field(default="sqlite:///.rung/rung.db", min_length=1)
    """SQLAlchemy URL of the database of cells and evidence."""
    mlflow_uri: str = Field(default="sqlite:///.rung/mlflow.db", min_length=1)
    """MLflow tracking and registry URI."""
    private_key: str = Field(default=".rung/keys/rung.key", min_length=1)
    """PEM file of the key that signs releases."""
    public_key: str = Field(default=".rung/keys/rung.pub", min_length=1)
    """PEM file of the key that verifies them."""
    trusted_keys: str = Field(default=".rung/keys/nodes", min_length=1)
    """Directory of the nodes' public keys, `NAME.pub`, whose evidence is taken."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """A workspace, with every path absolute and the environment applied."""

    root: Path
    """Directory of `rung.toml`."""
    store: Store
    database_url: str
    mlflow_uri: str
    private_key: Path
    public_key: Path
    trusted_keys: Path
    """Directory of the nodes' public keys; may be missing."""
    state: Path
    """`.rung`: all that Rung itself keeps beside the store and the database; `releases/` and `kits/` below it
    are what nodes pull from."""

    @property
    def scratch(self) -> Path:
        """Parent of the scratch directories of workers."""
        return self.state / "scratch"

    @property
    def dirty_marker(self) -> Path:
        """A file that exists while the store or the scratch directories may hold what nothing refers to."""
        return self.state / "unclean"

    @property
    def releases(self) -> Path:
        """Signed releases, one directory each by name."""
        return self.state / "releases"

    @property
    def revocations(self) -> Path:
        """The signed list of artifacts that nodes must not serve any more."""
        return self.state / "revocations.json"

    @property
    def rulings_head(self) -> Path:
        """The signed note of the latest ruling, which shows that the end of their chain was cut off."""
        return self.state / "rulings.json"

    @property
    def consents(self) -> Path:
        """The code of task files that may run on this machine."""
        return self.state / "consents.json"

    @property
    def kits(self) -> Path:
        """Issued kits, one directory each by digest, and the latest of each target by its name."""
        return self.state / "kits"

    @property
    def node(self) -> Path:
        """The directory of the node that `rung serve` runs when no other is named."""
        return self.state / "node"

    @property
    def build_lock(self) -> Path:
        """Lock file: one build at a time."""
        return self.state / "build.lock"

    @property
    def writers_lock(self) -> Path:
        """Lock file: shared by those that add blobs, exclusive for removing unused ones."""
        return self.state / "writers.lock"


def init_workspace(directory: Path) -> Workspace:
    """Create a workspace, or complete an existing one; existing settings and keys are kept.

    Raises:
        ConfigurationError: `rung.toml` exists and is not valid.
        RegistryError: The directory cannot be written to.
        StorageFullError: No space left.
    """
    root = directory.absolute()
    settings = root / SETTINGS_NAME
    with storage_errors(root):
        (root / STATE_NAME).mkdir(parents=True, exist_ok=True)
    if not settings.exists():
        write_atomically(settings, _TEMPLATE.encode())
    ignore = root / STATE_NAME / ".gitignore"
    if not ignore.exists():
        write_atomically(ignore, b"# keys, databases and blobs are never committed\n*\n")
    workspace = _read(root)
    Store.create(workspace.store.root)
    generate_keys(workspace.private_key, workspace.public_key)
    for url in (workspace.database_url, workspace.mlflow_uri):
        if (path := sqlite_path(url)) is not None:
            with storage_errors(root):
                path.parent.mkdir(parents=True, exist_ok=True)
    return workspace


def find_workspace(start: Path | None = None) -> Workspace:
    """The workspace of a directory: `RUNG_WORKSPACE`, else the nearest `rung.toml` at or above it.

    Args:
        start: Directory to begin at; None: the current one.

    Raises:
        ConfigurationError: There is no workspace, or its settings are not valid.
    """
    named = os.environ.get("RUNG_WORKSPACE")
    if named and start is None:
        root = Path(named).expanduser().absolute()
        if not (root / SETTINGS_NAME).is_file():
            raise ConfigurationError(
                f"RUNG_WORKSPACE names `{named}`, where there is no {SETTINGS_NAME}",
                hint=f"run `rung init {named}`, or correct RUNG_WORKSPACE",
            )
        return _read(root)
    here = (start or Path.cwd()).absolute()
    for root in (here, *here.parents):
        if (root / SETTINGS_NAME).is_file():
            return _read(root)
    raise ConfigurationError(
        f"no workspace at `{here}` or above it", hint="run `rung init` here, or set RUNG_WORKSPACE to one"
    )


def _read(root: Path) -> Workspace:
    path = root / SETTINGS_NAME
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # also a number of more digits than Python reads
        raise ConfigurationError(
            f"`{path}` is not TOML: {error}", hint="correct the line it names"
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"cannot read `{path}`: {error.strerror}", hint="check its permissions"
        ) from error
    try:
        settings = Settings.model_validate(document)
    except ValidationError as error:
        known = ", ".join(f"`{name}`" for name in Settings.model_fields)
        raise configuration_error(
            error, where=f"`{path}`", hint=f"the settings are {known}", model=Settings
        ) from error
    return Workspace(
        root=root,
        store=Store(_path(settings.store, root=root)),
        database_url=below(os.environ.get("RUNG_DATABASE_URL") or settings.database_url, root=root),
        mlflow_uri=below(os.environ.get("MLFLOW_TRACKING_URI") or settings.mlflow_uri, root=root),
        private_key=_path(settings.private_key, root=root),
        public_key=_path(settings.public_key, root=root),
        trusted_keys=_path(settings.trusted_keys, root=root),
        state=root / STATE_NAME,
    )


def _path(text: str, *, root: Path) -> Path:
    return root / Path(text).expanduser()
