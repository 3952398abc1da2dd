from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry import oci
from registry.digest import digest_bytes
from registry.errors import CorruptError
from registry.index import Index

pytestmark = pytest.mark.smoke


def entry(number: int) -> oci.Document:
    digest = digest_bytes(b"%d" % number)
    return oci.index_entry(digest=digest, size_bytes=number, kind="artifact", root=digest, name=f"n{number}")


ENTRIES = st.lists(st.integers(0, 9), max_size=12)


@settings(max_examples=50, deadline=None)
@given(added=ENTRIES, wanted=st.sets(st.integers(0, 9)))
def test_entries_keep_their_order_are_listed_once_and_are_kept_or_removed(added, wanted):
    with TemporaryDirectory() as place:
        index = Index(Path(place) / "index.json")
        index.create()
        for number in added:
            index.add(entry(number))
        listed = [entry(number) for number in dict.fromkeys(added)]
        assert index.entries() == listed
        removed = index.keep_only(lambda one: one["size"] in wanted)
        assert index.entries() == [one for one in listed if one["size"] in wanted]
        assert removed == [one for one in listed if one["size"] not in wanted]


def test_creating_an_index_keeps_the_one_that_is_there(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.json")
    index.create()
    index.replace([entry(1)])
    index.create()
    assert index.entries() == [entry(1)]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"schemaVersion": 1, "manifests": []}', '{"manifests": [{}]}']
)
def test_what_is_no_index_is_named_with_its_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "index.json").write_text(text)
    with pytest.raises(CorruptError, match=r"index\.json") as caught:
        Index(tmp_path / "index.json").entries()
    assert "rung doctor --repair" in caught.value.hint


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match=r"index\.json"):
        Index(tmp_path / "index.json").entries()


@pytest.mark.parametrize(
    "entry",
    [
        1,
        None,
        [],
        {},
        {"digest": 1},
        {"digest": "../../x"},
        {"digest": "sha256:" + "0" * 64, "annotations": 1},
        {"digest": "sha256:" + "0" * 64, "annotations": ["x"]},
        {"digest": "sha256:" + "0" * 64, "annotations": {oci.KIND: "artifact"}},
        {"digest": "sha256:" + "0" * 64, "annotations": {oci.KIND: "artifact", oci.ROOT: []}},
    ],
)
def test_an_index_with_an_entry_that_names_no_blob_is_damaged(tmp_path: Path, entry: object) -> None:
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    with pytest.raises(CorruptError, match="cannot be read"):
        Index(path).entries()


def test_an_index_that_is_too_deep_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    path.write_text("[" * 100_000)
    with pytest.raises(CorruptError, match="cannot be read"):
        Index(path).entries()
