"""Documents of every schema version: upgraded on reading, with the digest of what was written."""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digest import digest_value
from registry.document import Document, JsonObject, Upgrade
from registry.errors import SchemaError

pytestmark = pytest.mark.smoke


def _to_2(document: JsonObject) -> JsonObject:
    return {"label": document["name"], "schema_version": 2}


def _to_3(document: JsonObject) -> JsonObject:
    return {**document, "size": len(document["label"])}


class Note(Document):
    KIND: ClassVar[str] = "note"
    RENEW: ClassVar[str] = "write it again"
    UPGRADES: ClassVar[tuple[Upgrade, ...]] = (_to_2, _to_3)

    schema_version: Literal[3] = 3
    label: str
    size: int


OLD = st.text(max_size=5).flatmap(
    lambda text: st.sampled_from(
        [{"name": text}, {"schema_version": 1, "name": text}, {"schema_version": 2, "label": text}]
    )
)


@given(OLD)
def test_an_old_document_is_read_as_the_newest_and_keeps_its_digest(old: JsonObject) -> None:
    note = Note.parse(old, where="here")
    label = old.get("name", old.get("label"))
    assert (note.schema_version, note.label, note.size) == (3, label, len(str(label)))
    assert note.digest == digest_value(old) != Note(label=note.label, size=note.size).digest


@given(OLD)
def test_a_changed_copy_is_a_new_document_and_an_unchanged_one_is_not(old: JsonObject) -> None:
    note = Note.parse(old, where="here")
    assert note.model_copy().digest == note.digest
    changed = note.model_copy(update={"size": 99})
    assert changed.digest == Note(label=note.label, size=99).digest


@given(st.text(max_size=5))
def test_a_document_of_the_newest_version_survives_the_way_through_json(label: str) -> None:
    note = Note(label=label, size=len(label))
    again = Note.parse(note.model_dump_json(), where="here")
    assert again == note
    assert again.digest == note.digest


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "it is not JSON"),
        ("[]", "it is not a JSON object"),
        ({"schema_version": 1}, "it does not have the form of schema 1"),
        ({"schema_version": 3, "label": "a"}, "size: Field required"),
        ({"schema_version": 0, "label": "a", "size": 1}, "schema_version"),
        ({"schema_version": "two"}, "it does not have the form of schema 'two'"),
        ({"schema_version": 4}, "has schema 4, this version of Rung reads up to 3"),
    ],
)
def test_what_this_version_does_not_read_is_refused_with_its_remedy(content: object, said: str) -> None:
    with pytest.raises(SchemaError) as caught:
        Note.parse(content, where="here")  # type: ignore[arg-type]  # some are no JSON
    assert said in caught.value.message
    assert caught.value.hint in ("write it again", "upgrade Rung on this machine")
