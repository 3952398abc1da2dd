from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from matrices.cells.levels import evaluated_on
from matrices.releases.files import read_release
from matrices.releases.release import Release
from matrices.resolve.facts import Facts
from matrices.resolve.request import Request
from matrices.resolve.resolve import resolve
from matrices.views.cell_page import CellPage, explain_cell
from matrices.views.table import matrix_json
from registry.digest import digest_value

GOLDEN = Path(__file__).parent / "golden"
DIGESTS = {
    "release-1.json": "sha256:0df6b38ad196432506846e3139d2d31c16826b7e81ce60d39839134b1ae35452",
    "release-2": "sha256:4066a3815fd18c6603bdf0955c6e91411fc0bb6bdc98b5cb048563ca215120ce",
    "release-3": "sha256:a49348b834328f5abcb8762233ff925057d38cdb1ed2a5b667381ac174e5367c",
    "release-4": "sha256:b0928c09d1ca572bf98be00fc6fe55c564a087ed76777f4057a5a4ff91f9fe17",
}
"""Of every version of a release that was ever written, as that version computed it."""
NOW = datetime(2026, 12, 1, tzinfo=UTC)
SIGNED = [name for name in DIGESTS if not name.endswith(".json")]


def _key(name: str) -> Path:
    own = GOLDEN / f"{name}.pub"
    return own if own.is_file() else GOLDEN / "rung.pub"


def test_releases_of_every_past_version_load_and_keep_their_digest():
    assert {path.name for path in GOLDEN.glob("release-*") if path.suffix != ".pub"} == set(DIGESTS)
    for name, digest in DIGESTS.items():
        path = GOLDEN / name
        data = (path / "release.json" if path.is_dir() else path).read_bytes()
        assert Release.parse(data, where=name).digest == digest
    assert f"release-{Release.newest_version()}" in DIGESTS, "the newest version has a golden file too"


@pytest.mark.parametrize("name", SIGNED)
def test_a_signed_release_of_every_version_verifies_resolves_and_is_explained(name, host):
    release = read_release(GOLDEN / name, public_key=_key(name))
    assert release.digest == DIGESTS[name]
    request = Request(family="demo-agent", task=("reasoning",), min_tier=3)
    facts = Facts(request=request, host=host, runtimes={"onnxruntime": "1.32.0"}, at=NOW)
    decision = resolve(release, facts)
    assert decision.outcome == "allow", decision.reason
    assert decision.release_digest == DIGESTS[name]
    cell = release.cells[0].cell
    on = evaluated_on(cell)
    assert (on.runtime, on.runtime_version, on.chip, on.via) == ("onnxruntime", "1.32.0", "AMD EPYC", "chip")
    page = explain_cell(CellPage(cell, history=cell.evidence))
    assert any("on onnxruntime 1.32.0, AMD EPYC, retrieval 1.000 on 150: tier 1" in line for line in page)
    assert [entry["chip"] for entry in matrix_json([cell])["cells"][0]["evidence"]][-2:] == ["AMD EPYC", None]


def test_releases_of_different_versions_are_compared_by_what_they_hold():
    two, three, four = (read_release(GOLDEN / name, public_key=_key(name)) for name in SIGNED)
    assert two.digest != three.digest
    assert three.is_same_content(four), "its place in the line and its end are no content"
    assert not two.is_same_content(three)
    assert two.is_same_content(three.model_copy(update={"name": two.name}))


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
