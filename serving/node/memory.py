"""What a node remembers of the releases it has had, so that an older one cannot be played back to it.

`memory.json` in the node's directory: the newest release of each family, and what was done by an explicit
option. A release of a lower version than the remembered one is refused, at a pull and at a start. The file
is not signed: whoever can write in the node's directory can also change the server.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime, Field

from matrices.releases.release import Release
from registry.atomic import storage_errors, write_atomically
from registry.digest import Digest, canonical_json, short
from registry.document import Document
from registry.errors import RefusedError
from registry.value import Value

MEMORY_NAME: Final = "memory.json"
_LOCK_NAME: Final = "memory.lock"


class Seen(Value):
    """The release of a family that the node has now."""

    release: str
    digest: Digest
    version: int = Field(ge=0)
    at: AwareDatetime
    """When it was pulled."""


class Act(Value):
    """Something that a person did by an explicit option."""

    what: Literal["older release", "replaced key"]
    detail: str
    at: AwareDatetime


class NodeMemory(Document):
    """The node's memory."""

    KIND: ClassVar[str] = "node's memory"
    RENEW: ClassVar[str] = "remove it if you trust what the node's directory holds, then pull again"

    schema_version: Literal[1] = 1
    current: str | None = None
    """Name of the release that was pulled last."""
    families: dict[str, Seen] = Field(default={})
    """Family → the release that was pulled last; no older one has been since, but by an act."""
    acts: tuple[Act, ...] = ()
    """By time."""

    def current_of(self, family: str | None) -> str | None:
        """Name of the release that was pulled last, of a family or (None) of all; None: none was."""
        if family is None:
            return self.current
        seen = self.families.get(family)
        return None if seen is None else seen.release

    def check_not_older(self, release: Release) -> None:
        """Check that a release is not one from before the remembered one.

        Raises:
            RefusedError: It is older, or another of the same version.
        """
        seen = self.families.get(release.family)
        if seen is None or release.digest == seen.digest or release.version > seen.version:
            return
        if release.version == seen.version == 0:
            return  # from before releases had versions: none is known to be the older one
        if release.version == seen.version:
            why = f"there are two of version {seen.version}: this node has had `{seen.release}`"
            why += f" ({short(seen.digest)}), this one is {short(release.digest)}"
        else:
            why = f"it has version {release.version}, this node has had `{seen.release}` of {seen.version}"
        raise RefusedError(
            f"release `{release.name}` of `{release.family}` is refused: {why}",
            hint="pull a newer release; to go back on purpose, `rung pull NAME --allow-older`, which is "
            "recorded",
        )


def read_memory(root: Path) -> NodeMemory:
    """The memory of a node's directory; an empty one if it has none.

    Raises:
        SchemaError: It cannot be read.
    """
    path = root / MEMORY_NAME
    try:
        return NodeMemory.parse(path.read_bytes(), where=str(path))
    except FileNotFoundError:
        return NodeMemory()


def remember_release(root: Path, release: Release, *, allow_older: bool = False) -> NodeMemory:
    """Note that a release was pulled whole.

    Args:
        root: The node's directory.
        release: The release.
        allow_older: Also if the node has had a newer one; that is recorded as an act.

    Raises:
        RefusedError: It is older than the one that is remembered.
        StorageFullError: No space left.
    """
    now = datetime.now(UTC)
    with _locked(root):
        memory = read_memory(root)
        acts = memory.acts
        try:
            memory.check_not_older(release)
        except RefusedError:
            if not allow_older:
                raise
            was = memory.families[release.family]
            detail = f"{release.name} (version {release.version}) after {was.release} ({was.version})"
            acts = (*acts, Act(what="older release", detail=detail, at=now))
        known = memory.families.get(release.family)
        if known is not None and (known.digest, memory.current) == (release.digest, release.name):
            return memory
        seen = Seen(release=release.name, digest=release.digest, version=release.version, at=now)
        families = dict(sorted({**memory.families, release.family: seen}.items()))
        return _write(root, NodeMemory(current=release.name, families=families, acts=acts))


def remember_act(root: Path, what: Literal["older release", "replaced key"], detail: str) -> NodeMemory:
    """Note what a person did by an explicit option."""
    with _locked(root):
        memory = read_memory(root)
        act = Act(what=what, detail=detail, at=datetime.now(UTC))
        return _write(root, memory.model_copy(update={"acts": (*memory.acts, act)}))


def _write(root: Path, memory: NodeMemory) -> NodeMemory:
    write_atomically(root / MEMORY_NAME, canonical_json(memory.content) + b"\n")
    return memory


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    path = root / _LOCK_NAME
    with storage_errors(path):
        root.mkdir(parents=True, exist_ok=True)
        stream = path.open("ab")
    with stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
