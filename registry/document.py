"""Versioned documents: JSON that Rung writes with a schema version, and reads in every version it ever wrote.

A document's class has one function per past version that turns the JSON of that version into that of the
next. Old documents are never rewritten: signatures are verified over their bytes, and their digest is that
of the content as it was written, whatever later versions add.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from pydantic import PrivateAttr, ValidationError

from registry.digest import digest_value
from registry.errors import SchemaError
from registry.value import Value, describe, with_article

JsonObject = dict[str, Any]  # Any: JSON
Upgrade = Callable[[JsonObject], JsonObject]


class Document(Value):
    """The base of documents. A subclass narrows `schema_version` to the version that it writes."""

    KIND: ClassVar[str]
    """What it is, for messages: `release`."""
    RENEW: ClassVar[str]
    """How to get one that this version reads, for hints."""
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = ()
    """From version 1 to 2, from 2 to 3, and so on to the version that is written."""

    schema_version: int
    _found: JsonObject | None = PrivateAttr(default=None)
    _digest: str | None = PrivateAttr(default=None)

    @property
    def content(self) -> JsonObject:
        """The JSON of the document: what was read, or else what is written."""
        return self.model_dump(mode="json") if self._found is None else self._found

    @property
    def digest(self) -> str:
        """The digest of the document as it was written."""
        return self._digest or digest_value(self)

    def __eq__(self, other: object) -> bool:
        """Whether two documents have the same fields, in whichever version each was written."""
        return type(self) is type(other) and self.__dict__ == other.__dict__

    @classmethod
    def newest_version(cls) -> int:
        """The version that is written."""
        return len(cls.UPGRADES) + 1

    @classmethod
    def parse(cls, content: bytes | str | JsonObject, *, where: str) -> Self:
        """The document of any version.

        Args:
            content: Its JSON, or what the JSON holds.
            where: Path or name, for messages.

        Raises:
            SchemaError: It is not such a document, or was written by a newer version of Rung.
        """
        found = content if isinstance(content, dict) else _load(content, cls, where=where)
        digest = _digest_of(found, cls, where=where)
        version = found.get("schema_version", 1)
        newest = cls.newest_version()
        if not isinstance(version, int) or version < 1:
            raise _unreadable(cls, where, f"its schema_version is {version!r}")
        if version > newest:
            raise SchemaError(
                f"the {cls.KIND} at `{where}` has schema {version}, "
                f"this version of Rung reads up to {newest}",
                hint="upgrade Rung on this machine",
            )
        try:
            upgraded = dict(found)
            for upgrade in cls.UPGRADES[version - 1 :]:
                upgraded = upgrade(upgraded)
            value = cls.model_validate(upgraded | {"schema_version": newest})
        except ValidationError as error:
            raise _unreadable(cls, where, describe(error)) from error
        except (AttributeError, KeyError, TypeError) as error:
            raise _unreadable(cls, where, f"it does not have the form of schema {version}") from error
        value._found, value._digest = found, digest
        return value

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy; with changes it is a new document of the newest version."""  # Any: pydantic's signature
        copied = super().model_copy(update=update, deep=deep)
        if update:
            copied._found = copied._digest = None
        return copied


def _load(content: bytes | str, kind: type[Document], *, where: str) -> JsonObject:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _unreadable(kind, where, "it is not JSON") from error
    if not isinstance(found, dict):
        raise _unreadable(kind, where, "it is not a JSON object")
    return found


def _digest_of(found: JsonObject, kind: type[Document], *, where: str) -> str:
    try:
        return digest_value(found)
    except (ValueError, RecursionError) as error:  # Python reads 1e999 and "\ud800", which no JSON can hold
        raise _unreadable(kind, where, "it holds a number or text that JSON cannot represent") from error


def _unreadable(kind: type[Document], where: str, why: str) -> SchemaError:
    return SchemaError(
        f"`{where}` is not {with_article(kind.KIND)} that this version of Rung reads: {why}", hint=kind.RENEW
    )
