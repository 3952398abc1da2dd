"""The chain of rulings: each is signed with the workspace's key, together with the digest of the one before.

The database is not believed: whoever can write to it could approve a cell, or take a withdrawal back. A seal
stands beside each ruling. It holds the digest of the ruling and of the seal before, so that a ruling that is
changed, removed, added or moved breaks the chain at a place that can be named, and the signature over that
digest, so that nobody without the key can mend the chain. What no chain shows is that its end was cut off;
for that the workspace keeps the latest digest in a signed file outside the database, `rulings.json`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from pydantic import Field

from matrices.releases.ruling import Ruling
from registry.digest import Digest, digest_value, short
from registry.document import Document
from registry.errors import CorruptError, SignatureError
from registry.signed_document import read_signed_file, write_signed_file
from registry.signing import fingerprint, sign_message, verify_message
from registry.value import Value

HEAD_NAME: Final = "rulings.json"
_KEY: Final = "rulings"
_PURPOSE: Final = "rung ruling 1"
_HINT: Final = (
    "look at `rung rulings`, restore a backup of the database, and rule again on the cells it names; "
    "rulings from before they were signed: `rung rulings --sign`"
)


class Seal(Value):
    """The signature over one ruling, and its place in the chain."""

    previous: Digest | None
    """Digest in the seal of the ruling before; None: it is the first."""
    digest: Digest
    """Of the ruling, `previous` and `adopted`."""
    adopted: str | None = None
    """Who signed a ruling that was made without a signature, and why; None: it was signed when made."""
    key: Digest
    """Fingerprint of the public key."""
    signature: str
    """Over `digest`, base64."""


@dataclass(frozen=True, slots=True)
class SealedRuling:
    """A ruling as the database has it; `seal` is None where it was never signed."""

    ruling: Ruling
    seal: Seal | None


class ChainHead(Document):
    """The latest seal that the workspace made, kept outside the database."""

    KIND: ClassVar[str] = "record of the latest ruling"
    RENEW: ClassVar[str] = _HINT

    schema_version: Literal[1] = 1
    count: int = Field(ge=0)
    """Rulings up to it."""
    latest: Digest | None
    """Digest in its seal; None: the first one is not made yet."""


def seal_ruling(
    ruling: Ruling,
    *,
    previous: Digest | None,
    private_key: Path,
    public_key: Path,
    adopted: str | None = None,
) -> Seal:
    """Sign a ruling as the next of a chain.

    Raises:
        ConfigurationError: A key cannot be used.
    """
    digest = _link(ruling, previous=previous, adopted=adopted)
    return Seal(
        previous=previous,
        digest=digest,
        adopted=adopted,
        key=fingerprint(public_key),
        signature=sign_message(digest.encode(), purpose=_PURPOSE, private_key=private_key),
    )


def chain_problems(
    rulings: Sequence[SealedRuling], *, head: ChainHead | None, keys: Iterable[Path]
) -> list[str]:
    """What is wrong with a chain, one sentence each.

    Args:
        rulings: In the order in which they were made.
        head: The latest seal that was noted outside the database; None: none ever was.
        keys: Public keys whose seals count.
    """
    trusted = {fingerprint(key): key for key in keys}
    problems: list[str] = []
    previous: Digest | None = None
    for number, one in enumerate(rulings, start=1):
        problems += [
            f"ruling {number} ({_named(one.ruling)}) {why}" for why in _broken(one, previous, trusted)
        ]
        if one.seal is not None:
            previous = one.seal.digest
    seals = [one.seal.digest for one in rulings if one.seal is not None]
    if head is not None and head.latest is not None and head.latest not in seals:
        problems.append(
            f"the ruling that was number {head.count} is missing: the database has {len(rulings)} rulings"
        )
    if head is None and seals:
        problems.append(f"`{HEAD_NAME}`, the record of the latest of {len(seals)} signed rulings, is missing")
    return problems


def read_head(path: Path, *, keys: Iterable[Path]) -> ChainHead | None:
    """The latest seal that was noted; None if none ever was.

    Raises:
        SignatureError: The file is signed with none of the keys, or was changed.
        SchemaError: It was written by a newer version of Rung.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    refused: SignatureError | None = None
    for key in keys:
        try:
            return ChainHead.parse(
                read_signed_file(data, where=str(path), key=_KEY, public_key=key), where=str(path)
            )
        except SignatureError as error:
            refused = refused or error
    raise refused or SignatureError(f"no key to verify `{path}` with", hint="run `rung init`")


def write_head(rulings: Sequence[SealedRuling], *, path: Path, private_key: Path) -> None:
    """Note the latest seal of a chain that was verified, or that there is none yet.

    Raises:
        ConfigurationError: The key cannot sign.
        StorageFullError: No space is left; the earlier note is kept.
    """
    seals = [one.seal for one in rulings if one.seal is not None]
    head = ChainHead(count=len(seals), latest=seals[-1].digest if seals else None)
    write_signed_file(head.content, path=path, key=_KEY, private_key=private_key)


def broken_chain(problems: Sequence[str]) -> CorruptError:
    """The error that says what is wrong with a chain."""
    more = f"; and {len(problems) - 4} more" if len(problems) > 4 else ""
    return CorruptError(
        f"the database's rulings are not those that were signed: {'; '.join(problems[:4])}{more}", hint=_HINT
    )


def _link(ruling: Ruling, *, previous: Digest | None, adopted: str | None) -> Digest:
    return digest_value({"ruling": ruling, "previous": previous, "adopted": adopted})


def _named(ruling: Ruling) -> str:
    return f"{ruling.verb} `{ruling.cell}` by {ruling.who}, {ruling.at:%Y-%m-%d %H:%M}Z"


def _broken(one: SealedRuling, previous: Digest | None, trusted: Mapping[str, Path]) -> list[str]:
    seal = one.seal
    if seal is None:
        return ["is not signed"]
    if _link(one.ruling, previous=seal.previous, adopted=seal.adopted) != seal.digest:
        return ["was changed after it was signed"]
    if (key := trusted.get(seal.key)) is None:
        return [f"is signed with the key {short(seal.key)}, which is not the workspace's"]
    try:
        verify_message(seal.digest.encode(), purpose=_PURPOSE, signature=seal.signature, public_key=key)
    except SignatureError:
        return ["has a signature that does not verify"]
    if seal.previous != previous:
        return ["does not follow the one before: a ruling was removed, added or moved there"]
    return []
