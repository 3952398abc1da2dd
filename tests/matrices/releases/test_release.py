from __future__ import annotations

from pathlib import Path

from matrices.releases.release import Release
from registry.digest import digest_value

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {"release-1.json": "sha256:0df6b38ad196432506846e3139d2d31c16826b7e81ce60d39839134b1ae35452"}
"""Of every version of a release that was ever written, as that version computed it."""


def test_releases_of_every_past_version_load_and_keep_their_digest():
    assert {path.name for path in GOLDEN.glob("release-*.json")} == set(DIGESTS)
    for name, digest in DIGESTS.items():
        assert Release.model_validate_json((GOLDEN / name).read_bytes()).digest == digest


def test_what_is_new_is_written_only_where_it_is_used(new_released, new_release):
    plain = new_release(new_released()).model_dump(mode="json")
    assert "min_evidence" not in plain
    assert not {"via", "driver"} & set(plain["cells"][0]["cell"]["evidence"][0])
    assert not {"speed", "variant", "rehearsal"} & set(plain["cells"][0]["cell"])
    demanding = new_release(new_released()).model_copy(update={"min_evidence": {"cuda-sm90": "close"}})
    again = Release.model_validate_json(demanding.model_dump_json())
    assert again == demanding
    assert again.digest != new_release(new_released()).digest


def test_a_release_says_the_same_whoever_made_it_whenever_with_whichever_version(new_released, new_release):
    old = new_release(new_released()).model_copy(update={"schema_version": 1})
    new = new_release(new_released()).model_copy(update={"created_by": "Bob"})
    assert old.is_same_content(new)
    assert not old.is_same_content(new.model_copy(update={"tiers": 4}))
    assert digest_value(old) == old.digest
