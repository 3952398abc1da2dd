from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from matrices.releases.create import create_release
from matrices.releases.files import check_name, read_release, write_release
from matrices.releases.release import Release
from matrices.releases.ruling import Approval
from registry.digest import digest_value
from registry.errors import (
    ConfigurationError,
    CorruptError,
    NotFoundError,
    RefusedError,
    RegistryError,
    SchemaError,
    SignatureError,
    StorageFullError,
)
from registry.signing import generate_keys, sign

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 22, 13, 0, tzinfo=UTC)


@pytest.fixture
def keys(tmp_path):
    private, public = tmp_path / "keys" / "private.pem", tmp_path / "keys" / "public.pem"
    generate_keys(private, public)
    return private, public


@pytest.fixture
def freeze(new_cell, new_manifest):
    """A release of one approved cell, one that failed, and one of another family."""

    def make(name="r1", *, manifest=None, approvals=None, cells=None, **options) -> Release:
        approved = new_cell(state="approved")
        listed = cells or [
            approved,
            new_cell("demo-flagship/1", state="failed", reason="segfault", tier=1),
            new_cell("demo-small/1", earned={"extraction": 3, "reasoning": None}, tier=3),
            new_cell("other/1", state="approved", family="other"),
        ]
        given = Approval(who="Ada", why="good", at=NOW, artifact=approved.artifact)
        return create_release(
            listed, name=name, family="demo", created_by="Ada", ladder_digest=digest_value("l"), tiers=3,
            tasks=["tool-calling", "extraction"],
            approvals={approved.id: given} if approvals is None else approvals,
            manifest_of=lambda digest: manifest or {new_manifest().digest: new_manifest()}[digest],
            created_at=NOW, **options,
        )  # fmt: skip

    return make


def test_a_release_holds_the_approved_cells_and_says_why_the_others_are_not_in_it(freeze):
    release = freeze()
    assert [one.cell.id for one in release.cells] == ["demo-mid/1:w4g32-gptq:cpu-x86-64-v3:onnxruntime"]
    assert [(one.id.split("/")[0], one.state, one.reason) for one in release.others] == [
        ("demo-flagship", "failed", "segfault"),
        ("demo-small", "evaluated", "not approved"),
    ]
    assert release.others[1].tasks == {"extraction": 3, "reasoning": None}
    assert release.tasks == ("extraction", "tool-calling")


def test_the_order_of_cells_does_not_change_a_release(freeze, new_cell):
    cells = [new_cell(state="approved"), new_cell("demo-z/1"), new_cell("demo-a/1")]
    assert freeze(cells=cells) == freeze(cells=cells[::-1])


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "A", "a b", "-a", "a-", "a..b", "a" * 65, "ä", "a\n", "con\x00"]
)
def test_a_name_that_is_none_is_refused(freeze, name):
    with pytest.raises(ConfigurationError, match="cannot be the name"):
        freeze(name)


@pytest.mark.parametrize("name", ["a", "2026.11", "demo-agent_v1.2", "a" * 64])
def test_a_plain_name_is_taken(name):
    assert check_name(name) == name


def test_an_empty_release_is_refused(freeze, new_cell):
    with pytest.raises(RefusedError, match="would be empty: none of 1 cells"):
        freeze(cells=[new_cell()])


def test_a_cell_without_its_approval_is_refused(freeze, new_cell):
    with pytest.raises(RefusedError, match="no approval of its artifact"):
        freeze(approvals={})
    stale = Approval(who="Ada", why="good", at=NOW, artifact=new_cell(build="b").artifact)
    with pytest.raises(RefusedError, match="no approval of its artifact"):
        freeze(approvals={new_cell().id: stale})


def test_a_manifest_of_another_artifact_is_refused(freeze, new_manifest):
    with pytest.raises(CorruptError, match="is of another artifact"):
        freeze(manifest=new_manifest(build="b"))


def test_a_release_is_read_as_it_was_written(freeze, keys, tmp_path):
    release = freeze()
    directory = write_release(release, directory=tmp_path / "out" / "r1", private_key=keys[0])
    assert read_release(directory, public_key=keys[1]) == release
    assert sorted(path.name for path in directory.iterdir()) == ["release.json", "release.sig"]
    assert sorted(path.name for path in directory.parent.iterdir()) == ["r1"]


def test_writing_the_same_again_changes_nothing_and_other_content_is_refused(freeze, keys, tmp_path):
    directory = tmp_path / "r1"
    write_release(freeze(), directory=directory, private_key=keys[0])
    before = {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
    write_release(freeze(), directory=directory, private_key=keys[0])
    with pytest.raises(RefusedError, match="holds the release `r1`"):
        write_release(freeze("r2"), directory=directory, private_key=keys[0])
    assert {path.name: path.stat().st_mtime_ns for path in directory.iterdir()} == before


@pytest.mark.parametrize("version", ["release-2", "release-3"])
def test_a_release_of_any_version_is_written_again_as_it_was(version, keys, tmp_path):
    golden = Path(__file__).parent / "golden" / version
    release = read_release(golden, public_key=golden.parent / "rung.pub")
    again = write_release(release, directory=tmp_path / "again", private_key=keys[0])
    assert (again / "release.json").read_bytes() == (golden / "release.json").read_bytes()
    assert read_release(again, public_key=keys[1]).digest == release.digest
    write_release(release, directory=again, private_key=keys[0])
    renewed = release.model_copy(update={"created_by": "Bob"})
    with pytest.raises(RefusedError, match=f"holds the release `{release.name}`"):
        write_release(renewed, directory=again, private_key=keys[0])


def test_a_directory_of_somebody_else_is_kept(freeze, keys, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RefusedError, match="something that is not a release"):
        write_release(freeze(), directory=tmp_path / "mine", private_key=keys[0])
    (tmp_path / "file").write_text("x")
    with pytest.raises(RefusedError, match="something that is not a release"):
        write_release(freeze(), directory=tmp_path / "file", private_key=keys[0])
    assert (tmp_path / "file").read_text() == "x"


def test_without_a_key_nothing_is_written(freeze, tmp_path):
    with pytest.raises(ConfigurationError, match="private key"):
        write_release(freeze(), directory=tmp_path / "r1", private_key=tmp_path / "none.pem")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_no_half_release(freeze, keys, tmp_path):
    program = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from matrices.releases.release import Release; from matrices.releases.files import write_release\n"
        "release = Release.model_validate_json(Path(sys.argv[1]).read_bytes())\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try: write_release(release, directory=Path(sys.argv[2]), private_key=Path(sys.argv[3]))\n"
        "except Exception as error: print(type(error).__name__)\n"
    )
    (tmp_path / "release.json").write_text(freeze().model_dump_json())
    place = tmp_path / "out" / "r1"
    arguments = [str(tmp_path / "release.json"), str(place), str(keys[0])]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == StorageFullError.__name__
    assert list(place.parent.iterdir()) == []


@pytest.fixture
def written(freeze, keys, tmp_path):
    return write_release(freeze(), directory=tmp_path / "r1", private_key=keys[0])


def test_a_release_with_one_changed_byte_is_refused(written, keys):
    path = written / "release.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"tiers": 3', b'"tiers": 1'))
    assert path.read_bytes() != data
    with pytest.raises(SignatureError, match=r"release\.json"):
        read_release(written, public_key=keys[1])


def test_a_signature_of_another_key_is_refused(written, keys, tmp_path):
    generate_keys(tmp_path / "e.pem", tmp_path / "e.pub")
    with pytest.raises(SignatureError):
        read_release(written, public_key=tmp_path / "e.pub")
    sign(written, signature=written / "release.sig", private_key=tmp_path / "e.pem")
    with pytest.raises(SignatureError):
        read_release(written, public_key=keys[1])


def test_a_signature_of_another_release_is_refused(written, freeze, keys, tmp_path):
    other = write_release(freeze("r2"), directory=tmp_path / "r2", private_key=keys[0])
    shutil.copy(other / "release.sig", written / "release.sig")
    with pytest.raises(SignatureError):
        read_release(written, public_key=keys[1])


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"garbage\x00\xff", b'{"payload": 3}', b"[" * 200_000]
)
def test_a_signature_that_is_none_is_refused(written, keys, content):
    (written / "release.sig").write_bytes(content)
    with pytest.raises(SignatureError):
        read_release(written, public_key=keys[1])


def test_a_file_beside_the_release_is_refused(written, keys):
    (written / "extra.json").write_text("{}")
    with pytest.raises(SignatureError, match=r"extra\.json"):
        read_release(written, public_key=keys[1])


def test_what_is_missing_is_named(written, keys, tmp_path):
    with pytest.raises(NotFoundError, match="no release at"):
        read_release(tmp_path / "nowhere", public_key=keys[1])
    (written / "release.sig").unlink()
    with pytest.raises(SignatureError, match="is not signed"):
        read_release(written, public_key=keys[1])


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"schema_version": 5}, SchemaError, "has schema 5, this version of Rung reads up to 4"),
        ({"schema_version": 0}, SchemaError, "schema_version"),
        ({"schema_version": 2, "cells": [{}]}, SchemaError, "does not have the form of schema 2"),
        ({"tiers": "many"}, SchemaError, "tiers"),
        ({"surprise": 1}, SchemaError, "surprise"),
        ({"name": "\ud800"}, SchemaError, "text that JSON cannot represent"),
    ],
)
def test_a_signed_document_of_another_form_is_refused(written, keys, change, error, said):
    document = json.loads((written / "release.json").read_text()) | change
    (written / "release.json").write_text(json.dumps(document))
    sign(written, signature=written / "release.sig", private_key=keys[0])
    with pytest.raises(error, match=said):
        read_release(written, public_key=keys[1])


def test_a_place_that_cannot_be_written_is_told(freeze, keys, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RegistryError):
        write_release(freeze(), directory=tmp_path / "file" / "r1", private_key=keys[0])


def test_a_release_refuses_cells_with_less_evidence_than_it_demands(new_cell, new_manifest, keys):
    approved = new_cell(state="approved")
    approval = Approval(who="Ada", why="so", at=approved.updated_at, artifact=approved.artifact)

    def freeze_with(level):
        return create_release(
            [approved], name="r", family="demo", created_by="Ada", ladder_digest=digest_value("l"), tiers=3,
            tasks=["reasoning"], approvals={approved.id: approval}, manifest_of=lambda _: new_manifest(),
            min_evidence={"cpu-x86-64-v3": level},
        )  # fmt: skip

    assert freeze_with("evaluated").min_evidence == {"cpu-x86-64-v3": "evaluated"}
    with pytest.raises(RefusedError, match="reaches `evaluated`, the release demands `benchmarked`"):
        freeze_with("benchmarked")
