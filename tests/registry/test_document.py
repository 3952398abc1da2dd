from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digest import canonical_json, digest_value
from registry.document import Document, JsonObject, Upgrade
from registry.errors import SchemaError


def _renamed(document: JsonObject) -> JsonObject:
    return {name: value for name, value in document.items() if name != "old"} | {"new": document["old"]}


class Note(Document):
    """A document whose second version renamed a field."""

    KIND: ClassVar[str] = "note"
    RENEW: ClassVar[str] = "write it again"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (_renamed,)

    schema_version: Literal[2] = 2
    new: str


@given(text=st.text())
def test_law_a_document_keeps_the_digest_of_what_was_written(text: str):
    old = {"schema_version": 1, "old": text}
    read = Note.parse(canonical_json(old), where="note.json")
    assert (read.new, read.schema_version, read.digest) == (text, 2, digest_value(old))
    written = Note(new=text)
    assert Note.parse(canonical_json(written), where="note.json") == written
    assert written.digest == digest_value(written) != read.digest


class LongerNote(Note):
    """The same version of a note, with a field that was added later."""

    colour: str | None = None


@given(text=st.text())
def test_law_a_field_that_is_added_later_changes_neither_digest_nor_content(text: str):
    written = Note(new=text)
    read = LongerNote.parse(canonical_json(written), where="note.json")
    assert read.digest == written.digest
    assert canonical_json(read.content) == canonical_json(written)
    assert read.model_copy(update={"colour": "red"}).content["colour"] == "red"


def test_a_past_version_is_written_back_as_it_was_read():
    old = {"schema_version": 1, "old": "a"}
    read = Note.parse(old, where="it")
    assert (read.content, read.model_copy().content) == (old, old)
    assert read == Note(new="a"), "the fields are the same, though not what was written"
    assert read.model_copy(update={"new": "b"}).content == Note(new="b").content


def test_a_document_without_a_version_is_of_the_first():
    assert Note.parse({"old": "a"}, where="it").new == "a"


def test_a_changed_document_is_a_new_one():
    read = Note.parse({"schema_version": 1, "old": "a"}, where="it")
    assert read.model_copy(update={"new": "b"}).digest == Note(new="b").digest
    assert read.model_copy().digest == read.digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "`it` is not a note that this version of Rung reads: it is not JSON"),
        (b"[]", "it is not a JSON object"),
        ({"schema_version": 3, "new": "a"}, "the note at `it` has schema 3, .* reads up to 2"),
        (b'{"schema_version": 2, "new": "\\ud800"}', "holds a number or text that JSON cannot represent"),
        (b'{"schema_version": 1, "old": "\xed\xa0\x80"}', "that JSON cannot represent"),
        (b'{"schema_version": 2, "new": "a", "\\udfff": 1}', "that JSON cannot represent"),
        (b'{"schema_version": 2, "new": 1e999}', "that JSON cannot represent"),
        (b'{"schema_version": 2, "new": NaN}', "that JSON cannot represent"),
        (b'{"schema_version": 2, "new": ' + b"9" * 5000 + b"}", "it is not JSON"),
        (b'{"new": ' + b"[" * 100_000, "it is not JSON"),
        ({"schema_version": 0, "new": "a"}, "its schema_version is 0"),
        ({"schema_version": "2", "new": "a"}, "its schema_version is '2'"),
        ({"schema_version": 1, "new": "a"}, "does not have the form of schema 1"),
        ({"schema_version": 2, "new": 1}, "new: Input should be a valid string"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_way_to_renew_it(content: bytes | JsonObject, said: str):
    with pytest.raises(SchemaError, match=said) as caught:
        Note.parse(content, where="it")
    assert caught.value.hint in ("write it again", "upgrade Rung on this machine")
