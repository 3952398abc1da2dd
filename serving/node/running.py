"""Running servers: the file by which an operator on the same machine finds a node's server and asks it.

A server writes `servers/HOST-PID.json` in the node's directory and holds a lock beside it as long as it
lives, so that a file which a killed server left behind is known to be one. Who may write there, and may send
the process a signal, is its operator; nothing of this can be reached over the network.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO, ClassVar, Literal

from pydantic import AwareDatetime

from registry.atomic import sweep, write_atomically
from registry.digest import Digest, canonical_json
from registry.document import Document
from registry.errors import RegistryError, RungError, SchemaError
from registry.value import Value
from serving.contract.promise import Promise
from serving.node.directory import NodeDirectory

LOG = logging.getLogger("rung.serving")


class Problem(Value):
    """An error, as it is told to operators."""

    code: str
    message: str
    hint: str
    exit_code: int


class ReloadOutcome(Value):
    """What became of a reload."""

    outcome: Literal["running", "done", "unchanged", "refused"]
    """`refused`: the server goes on with what it has."""
    at: AwareDatetime
    """When it ended, or began if it is running."""
    release: str
    """The release that is served after it."""
    error: Problem | None = None

    def to_json(self) -> dict[str, object]:
        """Itself without what only a process needs, for `/v1/models`."""
        return self.model_dump(mode="json", exclude={"error": {"exit_code"}}, exclude_none=True)


class RunningServer(Document):
    """A server that runs."""

    KIND: ClassVar[str] = "file of a running server"
    RENEW: ClassVar[str] = "restart the server"

    schema_version: Literal[1] = 1
    host: str
    """Name of the machine or container."""
    pid: int
    url: str
    release: str
    artifact: Digest
    begun: int = 0
    """Reloads that were begun since the start; they are numbered from 1."""
    ended: int = 0
    """Number of the last one that has ended."""
    reload: ReloadOutcome | None = None
    """The last one."""

    def ask_to_reload(self) -> None:
        """Send the signal.

        Raises:
            ProcessLookupError: It has ended.
            PermissionError: It belongs to somebody else.
        """
        os.kill(self.pid, signal.SIGHUP)


class Announcement:
    """The file of this process; it is there from `begin` to `end`.

    A directory that cannot be written is no reason not to serve: then a line in the log says that there is
    no file, and only the signal is left.
    """

    def __init__(self, directory: NodeDirectory) -> None:
        name = f"{socket.gethostname()}-{os.getpid()}"
        self._file = directory.servers / f"{name}.json"
        self._lock_file = directory.servers / f"{name}.lock"
        self._lock: IO[bytes] | None = None
        self._server: RunningServer | None = None

    def begin(self, url: str, promise: Promise) -> None:
        """Write the file.

        Args:
            url: Where the server answers.
            promise: Of what it serves, which is from a release.
        """
        try:
            self._lock_file.parent.mkdir(parents=True, exist_ok=True)
            self._lock = self._lock_file.open("wb")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            sweep(self._file.parent)
            list(_find(self._file.parent))  # removes what killed servers left
        except (OSError, RegistryError) as error:
            LOG.warning("no `rung reload` of this server, send it SIGHUP: %s", error)
            return
        self._write(
            RunningServer(
                host=socket.gethostname(),
                pid=os.getpid(),
                url=url,
                release=promise.release or "",
                artifact=promise.artifact,
            )
        )

    def tell(self, promise: Promise, number: int, outcome: ReloadOutcome) -> None:
        """Write what became of a reload.

        Args:
            promise: Of what is served now.
            number: Of the reload, from 1.
            outcome: So far.
        """
        if self._server is None:
            return
        changes = {
            "release": promise.release or "",
            "artifact": promise.artifact,
            "begun": number,
            "ended": number - 1 if outcome.outcome == "running" else number,
            "reload": outcome,
        }
        self._write(self._server.model_copy(update=changes))

    def end(self) -> None:
        """Remove it."""
        if self._lock is not None:
            with suppress(OSError):
                self._file.unlink(missing_ok=True)
                self._lock_file.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    def _write(self, server: RunningServer) -> None:
        self._server = server
        try:
            write_atomically(self._file, canonical_json(server) + b"\n")
        except (OSError, RungError) as error:
            LOG.warning("`%s` cannot be written: %s", self._file, error)


def running_servers(directory: NodeDirectory) -> list[RunningServer]:
    """The servers of a node's directory that run on this machine, by process number."""
    return sorted(_find(directory.servers), key=lambda one: one.pid)


def _find(folder: Path) -> Iterator[RunningServer]:
    here = socket.gethostname()
    for path in folder.glob(f"{here}-*.json"):
        with suppress(FileNotFoundError, SchemaError):
            if not _is_locked(path.with_suffix(".lock")):
                path.with_suffix(".lock").unlink(missing_ok=True)
                path.unlink(missing_ok=True)
                continue
            yield RunningServer.parse(path.read_bytes(), where=str(path))


def _is_locked(path: Path) -> bool:
    with suppress(FileNotFoundError), path.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
