from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.digest import canonical_json, digest_bytes, digest_tree, digest_value

pytestmark = pytest.mark.smoke

FILES = st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=8).map(digest_bytes), max_size=8)


@given(FILES, st.randoms())
def test_the_digest_of_a_tree_does_not_depend_on_file_order(files, random):
    items = list(files.items())
    random.shuffle(items)
    assert digest_tree(dict(items)) == digest_tree(files)


@given(FILES, st.text(min_size=1, max_size=20), st.binary(max_size=8))
def test_the_digest_of_a_tree_changes_with_every_file(files, name, data):
    changed = files | {name: digest_bytes(data + b"!")}
    assert (digest_tree(changed) == digest_tree(files)) == (changed == files)


@given(FILES.filter(bool))
def test_renaming_a_file_changes_the_digest(files):
    renamed = {f"{name}x": digest for name, digest in files.items()}
    assert digest_tree(renamed) != digest_tree(files)


def test_a_digest_is_sha256_in_oci_form():
    assert digest_bytes(b"rung") == "sha256:" + hashlib.sha256(b"rung").hexdigest()


def test_canonical_json_is_sorted_dense_and_refuses_what_json_cannot_hold():
    assert canonical_json({"b": 1, "a": "ä"}) == '{"a":"ä","b":1}'.encode()
    assert digest_value({"b": 1, "a": 2}) == digest_value({"a": 2, "b": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json(float("nan"))
    with pytest.raises(TypeError, match="set"):
        canonical_json({1})
