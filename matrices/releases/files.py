"""Release files: write, sign, verify and read `release.json`, offline.

The directory holds `release.json` and `release.sig`, nothing else, and is written atomically. Nothing here
imports a database, because a node has none.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from pydantic_core import to_json

from matrices.releases.release import Release
from registry.digest import short
from registry.errors import ConfigurationError, RefusedError, RegistryError, StorageFullError
from registry.signed_document import SignedNames, read_signed, write_signed

RELEASE_NAME: Final = "release.json"
SIGNATURE_NAME: Final = "release.sig"
_NAMES: Final = SignedNames(
    kind="release",
    document=RELEASE_NAME,
    signature=SIGNATURE_NAME,
    obtain=f"give a directory that holds `{RELEASE_NAME}`",
)
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62}[a-z0-9])?")


def check_name(name: str) -> str:
    """The name itself, if it is a valid name for a release.

    Raises:
        ConfigurationError: It is not valid: some system could not use it as the name of a directory or tag.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise ConfigurationError(
            f"`{name}` cannot be the name of a release",
            hint="use 1 to 64 of a-z, 0-9, `.`, `_`, `-`; begin and end with a letter or digit",
        )
    return name


def check_named(release: Release, name: str, *, where: str) -> Release:
    """The release itself, if it has the name under which it was found.

    Raises:
        RefusedError: It has another: whoever keeps it gives one release in the place of another.
    """
    if release.name != name:
        raise RefusedError(
            f"{where} holds release `{release.name}` under the name `{name}`",
            hint=f"ask for `{release.name}`, or have `{name}` published there again",
        )
    return release


def write_release(release: Release, *, directory: Path, private_key: Path) -> Path:
    """Write and sign a release; the directory appears complete or not at all.

    Writing the same release again changes nothing. One that was read is written as it was read.

    Args:
        release: What to write.
        directory: Directory to create, with its parents.
        private_key: PEM file.

    Returns:
        The directory.

    Raises:
        RefusedError: The directory holds something else.
        SignatureError: The key cannot sign.
        StorageFullError: No space is left.
        RegistryError: The directory cannot be written.
    """
    check_name(release.name)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return _same_already(release, directory)
    document = to_json(release.content, indent=1) + b"\n"
    try:
        write_signed(document, directory=directory, names=_NAMES, private_key=private_key)
    except StorageFullError:
        raise
    except RegistryError:
        if not (directory / RELEASE_NAME).is_file():
            raise
        return _same_already(release, directory)  # another process wrote it first
    return directory


def read_release(directory: Path, *, public_key: Path) -> Release:
    """Read the release in a directory after verifying its signature; needs no network and no database.

    Raises:
        NotFoundError: There is no release.
        SignatureError: The signature is missing, from another key, or over other bytes.
        SchemaError: It was written by a newer version of Rung.
    """
    data = read_signed(directory, names=_NAMES, public_key=public_key)
    return Release.parse(data, where=str(directory / RELEASE_NAME))


def _same_already(release: Release, directory: Path) -> Path:
    path = directory / RELEASE_NAME
    if path.is_file() and (directory / SIGNATURE_NAME).is_file():
        there = Release.parse(path.read_bytes(), where=str(path))
        if there.digest == release.digest:
            return directory
        what = f"the release `{there.name}` ({short(there.digest)})"
    else:
        what = "something that is not a release"
    raise RefusedError(
        f"`{directory}` holds {what}, not `{release.name}` ({short(release.digest)})",
        hint="releases are frozen: choose another name or directory",
    )
