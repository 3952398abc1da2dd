"""The revocation list: artifacts of releases that a person withdrew or rejected, signed, for nodes to refuse.

One file `revocations.json` beside `releases/`, for all families of a workspace. A node takes it at each pull
and keeps it; it never takes a list of a lower version than the one that it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import AwareDatetime, Field

from matrices.releases.ruling import Ruling
from registry.digest import Digest
from registry.document import Document
from registry.signed_document import read_signed_file, write_signed_file
from registry.value import Value

REVOCATIONS_NAME: Final = "revocations.json"
MAX_REVOCATIONS_BYTES: Final = 16 << 20
_KEY: Final = "revocations"


class Revocation(Value):
    """One artifact that must not be served any more."""

    artifact: Digest
    cell: str
    why: str
    at: AwareDatetime


class Revocations(Document):
    """The list."""

    KIND: ClassVar[str] = "revocation list"
    RENEW: ClassVar[str] = "fetch it again from its publisher"

    schema_version: Literal[1] = 1
    version: int = Field(ge=0)
    """Grows with every change."""
    revoked: tuple[Revocation, ...] = ()
    """By artifact."""

    @property
    def reasons(self) -> Mapping[str, str]:
        """Artifact → why."""
        return {one.artifact: one.why for one in self.revoked}


NOTHING_REVOKED: Final = Revocations(version=0)


def revoked_by(rulings: Iterable[Ruling]) -> tuple[Revocation, ...]:
    """The artifacts whose latest ruling is a rejection or withdrawal.

    Args:
        rulings: All of them, in the order in which they were made.
    """
    latest: dict[tuple[str, str], Ruling] = {}
    for ruling in rulings:
        if ruling.artifact is not None:
            latest[ruling.artifact, ruling.cell] = ruling
    found = {
        artifact: Revocation(
            artifact=artifact, cell=cell, why=f"{_PAST[one.verb]} by {one.who}: {one.why}", at=one.at
        )
        for (artifact, cell), one in latest.items()
        if one.verb != "approve"
    }
    return tuple(found[artifact] for artifact in sorted(found))


def parse_revocations(data: bytes, *, where: str, public_key: Path) -> Revocations:
    """The list in the bytes of its file, verified.

    Raises:
        SignatureError: It is not signed with the key, or was changed.
        SchemaError: It was written by a newer version of Rung.
    """
    content = read_signed_file(data, where=where, key=_KEY, public_key=public_key)
    return Revocations.parse(content, where=where)


def read_revocations(path: Path, *, public_key: Path) -> Revocations:
    """The list in a file, verified; without a file nothing is revoked.

    Raises:
        SignatureError, SchemaError: See `parse_revocations`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return NOTHING_REVOKED
    return parse_revocations(data, where=str(path), public_key=public_key)


def write_revocations(
    revoked: tuple[Revocation, ...], *, path: Path, private_key: Path, public_key: Path
) -> Revocations:
    """Write and sign the list with the next version, unless it is there already.

    Raises:
        SignatureError: The list that is there is not the workspace's.
        ConfigurationError: The key cannot sign.
        StorageFullError: No space is left; the earlier list is kept.
    """
    before = read_revocations(path, public_key=public_key)
    if before.revoked == revoked:
        return before
    after = Revocations(version=before.version + 1, revoked=revoked)
    write_signed_file(after.content, path=path, key=_KEY, private_key=private_key)
    return after


_PAST: Final = {"reject": "rejected", "withdraw": "withdrawn"}
