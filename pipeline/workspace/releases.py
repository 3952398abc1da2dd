"""Find a release by name or directory, and verify its signature and blobs."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from matrices.releases.files import check_named, read_release
from matrices.releases.release import Release
from registry.errors import ConfigurationError, NotFoundError, RefusedError, UnknownNameError
from registry.workspace import Workspace, find_workspace


def find_release(name: str, *, key: Path | None = None) -> tuple[Release, Workspace | None]:
    """A verified release, and the workspace that has its blobs; None for a release given as a directory.

    A directory with its public key needs neither a workspace nor a database.

    Raises:
        NotFoundError: No such release.
        SignatureError: Its signature does not verify.
        RefusedError: It has another name than its directory in the workspace.
    """
    directory = Path(name)
    if (directory / "release.json").is_file():
        if key is None:
            key = find_workspace().public_key
        return read_release(directory, public_key=key), None
    workspace = find_workspace()
    parent = workspace.releases
    known = [path.name for path in parent.iterdir()] if parent.is_dir() else []
    if name not in known:
        unknown = UnknownNameError.of("release", name, known=known)
        raise NotFoundError(unknown.message, hint=unknown.hint)
    release = read_release(parent / name, public_key=key or workspace.public_key)
    return check_named(release, name, where=f"`{parent}`"), workspace


def newest_release(workspace: Workspace, *, family: str | None) -> str:
    """The name of the newest release of a family: the one with the highest version.

    Raises:
        NotFoundError: There is none.
        ConfigurationError: Several families have releases and none is named.
    """
    from matrices.ledger import query
    from matrices.ledger.db import open_database

    found = query.releases(open_database(workspace.database_url), family=family)
    if not found:
        raise NotFoundError(
            "no release yet" + (f" of `{family}`" if family else ""),
            hint="`rung release create NAME LADDER --by WHO`",
        )
    families = sorted({each.family for each in found})
    if len(families) > 1:
        raise ConfigurationError(
            f"releases of several families: {', '.join(families)}", hint="name one with `--family`"
        )
    return max(found, key=lambda one: (one.version, one.created_at)).name


def check_valid(release: Release, *, at: datetime) -> None:
    """Check that a release's time is not over.

    Raises:
        RefusedError: It is.
    """
    if release.expired(at):
        raise RefusedError(
            f"release `{release.name}` expired {release.expires_at:%Y-%m-%d %H:%M}Z",
            hint="create a new one: `rung release create`",
        )


def verify_blobs(workspace: Workspace, release: Release) -> None:
    """Check every blob that a release names against its digest.

    Raises:
        NotFoundError: A blob is missing.
        CorruptError: A blob has other bytes.
    """
    seen: set[str] = set()
    for released in release.cells:
        for entry in released.manifest.files:
            if entry.digest not in seen:
                seen.add(entry.digest)
                workspace.store.read_bytes(entry.digest)
