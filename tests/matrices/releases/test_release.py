from __future__ import annotations

import json
from pathlib import Path

from matrices.releases.release import Release
from registry.digest import digest_value

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {"release-1.json": "sha256:0df6b38ad196432506846e3139d2d31c16826b7e81ce60d39839134b1ae35452"}
"""Of every version of a release that was ever written, as that version computed it."""


def test_releases_of_every_past_version_load_and_keep_their_digest():
    assert {path.name for path in GOLDEN.glob("release-*.json")} == set(DIGESTS)
    for name, digest in DIGESTS.items():
        assert Release.parse((GOLDEN / name).read_bytes(), where=name).digest == digest


def test_a_release_is_written_whole_in_the_newest_version_and_reads_back_equal(new_released, new_release):
    release = new_release(new_released()).model_copy(update={"min_evidence": {"cuda-sm90": "close"}})
    assert Release.newest_version() == release.schema_version
    again = Release.parse(release.model_dump_json(), where="it")
    assert again == release
    assert again.digest == digest_value(release) != new_release(new_released()).digest


def _of_version_2(release):
    document = json.loads(release.model_dump_json())
    for released in document["cells"]:
        for entry in released["cell"]["evidence"]:
            on = entry.pop("measurement") or {}
            entry |= {name: on.get(name) for name in ("runtime", "runtime_version", "chip")}
    return document | {"schema_version": 2}


def test_a_past_version_keeps_the_digest_of_what_was_written_until_it_is_changed(new_released, new_release):
    document = _of_version_2(new_release(new_released()))
    old = Release.parse(document, where="it")
    assert old.digest == digest_value(document)
    assert old.cells == new_release(new_released()).cells
    assert old.model_copy(update={"tiers": 4}).digest != old.digest


def test_a_release_says_the_same_whoever_made_it_whenever_with_whichever_version(new_released, new_release):
    new = new_release(new_released()).model_copy(update={"created_by": "Bob"})
    old = Release.parse(_of_version_2(new_release(new_released())), where="it")
    assert old.digest != new.digest
    assert old.is_same_content(new)
    assert not old.is_same_content(new.model_copy(update={"tiers": 4}))
