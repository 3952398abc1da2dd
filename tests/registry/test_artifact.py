"""What a manifest may say: its paths are its own files', its numbers those of a model that can be."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from registry.artifact import MAX_FILES, Manifest
from registry.checkpoint import MAX_FILE_BYTES, FileEntry
from registry.digest import digest_bytes
from registry.errors import CorruptError

pytestmark = pytest.mark.smoke

OUTSIDE = ("../x", "/etc/x", "a/../../x", "..", ".", "", "a//b", "./a", "a/", "~/x")
UNPRINTABLE = ("a\0b", "a\nb", "\u202egpj.exe", "a\\..\\b", "\ud800")


def changed(manifest: Manifest, **changes: object) -> dict[str, object]:
    return manifest.model_dump(mode="json") | changes


@pytest.mark.parametrize("path", [*OUTSIDE, *UNPRINTABLE, "x" * 256, "a/" * 600 + "x"])
def test_a_file_has_a_path_inside_its_tree_that_every_system_can_write(path):
    with pytest.raises(ValidationError):
        FileEntry(path=path, digest=digest_bytes(b""), size_bytes=0)


@pytest.mark.parametrize(
    "path", ["a", "a/b.c", "ein Name", "日本語/モデル.onnx", "..a", "a..", ".hidden", "a~b"]
)
def test_unusual_but_harmless_paths_are_taken(path):
    assert FileEntry(path=path, digest=digest_bytes(b""), size_bytes=0).path == path


@pytest.mark.parametrize("size", [-1, MAX_FILE_BYTES + 1, 10**30])
def test_a_file_has_a_size_that_a_disk_can_hold(size):
    with pytest.raises(ValidationError):
        FileEntry(path="a", digest=digest_bytes(b""), size_bytes=size)


@pytest.mark.parametrize("entry", [*OUTSIDE, "/usr/lib/libc.so.6"])
def test_an_entry_outside_the_bundle_is_no_entry(store, make_manifest, entry):
    with pytest.raises(ValidationError):
        Manifest.model_validate(changed(make_manifest(store), entry=entry))


@pytest.mark.parametrize("entry", ["absent.onnx", "manifest.json"])
def test_the_store_gives_no_manifest_whose_entry_is_not_one_of_its_files(store, make_manifest, entry):
    bad = changed(make_manifest(store), entry=entry)
    blob = store.add_bytes(json.dumps(bad).encode())
    with pytest.raises(CorruptError, match="not one of its files"):
        store.find_artifact(blob.digest)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("manifest.json", "own place"),
        ("model.onnx", "twice"),
        ("model.onnx/x", "would be its directory"),
        ("weights.safetensors/a/b", "would be its directory"),
    ],
)
def test_files_do_not_lie_in_each_others_places(store, make_manifest, path, why):
    manifest = make_manifest(store)
    files = [file.model_dump(mode="json") for file in manifest.files]
    with pytest.raises(ValidationError, match=why):
        Manifest.model_validate(changed(manifest, files=[*files, files[0] | {"path": path}]))


def test_a_manifest_has_a_limited_number_of_files(store, make_manifest):
    manifest = make_manifest(store)
    first, *rest = (file.model_dump(mode="json") for file in manifest.files)
    files = [first, *rest, *(first | {"path": f"f{number}"} for number in range(MAX_FILES))]
    with pytest.raises(ValidationError, match="at most"):
        Manifest.model_validate(changed(manifest, files=files))


@pytest.mark.parametrize(
    "numbers",
    [
        {"memory_bytes": -(10**18)},
        {"memory_bytes": 10**30},
        {"kv_bytes_per_token": -1},
        {"options": {f"o{number}": 1 for number in range(1000)}},
        {"options": {"o": "x" * (1 << 20)}},
    ],
)
def test_numbers_and_options_are_bounded(store, make_manifest, numbers):
    with pytest.raises(ValidationError):
        Manifest.model_validate(changed(make_manifest(store), **numbers))


@pytest.mark.parametrize("name", ["vocab_size", "layers", "heads", "kv_heads", "head_size", "max_context"])
@pytest.mark.parametrize("value", [0, -1, 10**12])
def test_facts_of_a_model_are_bounded(store, make_manifest, name, value):
    manifest = make_manifest(store)
    facts = manifest.facts.model_dump(mode="json") | {name: value}
    with pytest.raises(ValidationError):
        Manifest.model_validate(changed(manifest, facts=facts))
