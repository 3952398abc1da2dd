"""The revocation list: what is on it, that its version grows, and that only its key can write it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from matrices.releases.revocations import (
    NOTHING_REVOKED,
    parse_revocations,
    read_revocations,
    revoked_by,
    write_revocations,
)
from matrices.releases.ruling import Ruling
from registry.digest import digest_value
from registry.errors import SignatureError
from registry.signing import generate_keys

START = datetime(2026, 11, 1, tzinfo=UTC)
ARTIFACT, OTHER = digest_value("a"), digest_value("b")


@pytest.fixture
def keys(tmp_path):
    generate_keys(tmp_path / "key", tmp_path / "key.pub")
    return {"private_key": tmp_path / "key", "public_key": tmp_path / "key.pub"}


def ruled(*verbs, artifact=ARTIFACT, cell="a/1:fp32:t:c"):
    return [
        Ruling(
            cell=cell, verb=verb, who="Ada", why="so", artifact=artifact, at=START + timedelta(hours=number)
        )
        for number, verb in enumerate(verbs)
    ]


@pytest.mark.parametrize(
    ("verbs", "why"),
    [
        (["approve"], None),
        (["approve", "withdraw"], "withdrawn by Ada: so"),
        (["reject"], "rejected by Ada: so"),
        (["approve", "withdraw", "approve"], None),
        (["reject", "approve", "reject"], "rejected by Ada: so"),
    ],
)
def test_the_latest_ruling_on_an_artifact_decides(verbs, why):
    found = revoked_by([*ruled(*verbs), *ruled("approve", artifact=OTHER)])
    assert [one.why for one in found] == ([] if why is None else [why])


def test_a_ruling_without_an_artifact_revokes_nothing():
    assert revoked_by(ruled("reject", artifact=None)) == ()


def test_the_version_grows_with_every_change_and_only_then(keys, tmp_path):
    path = tmp_path / "revocations.json"
    public = keys["public_key"]
    assert read_revocations(path, public_key=public) == NOTHING_REVOKED
    assert write_revocations((), path=path, **keys).version == 0
    assert not path.exists()
    first = write_revocations(revoked_by(ruled("reject")), path=path, **keys)
    again = write_revocations(revoked_by(ruled("reject")), path=path, **keys)
    assert (first.version, again.version) == (1, 1)
    assert read_revocations(path, public_key=public).reasons == {ARTIFACT: "rejected by Ada: so"}
    assert write_revocations((), path=path, **keys).version == 2


def test_a_list_that_was_changed_or_is_of_another_key_is_refused(keys, tmp_path):
    path = tmp_path / "revocations.json"
    write_revocations(revoked_by(ruled("reject")), path=path, **keys)
    data = path.read_bytes()
    changed = json.loads(data)
    changed["revocations"]["revoked"] = []
    generate_keys(tmp_path / "other", tmp_path / "other.pub")
    for bad in (json.dumps(changed).encode(), b"", b"[]", b"{}", b'{"revocations": 1, "signature": {}}'):
        with pytest.raises(SignatureError):
            parse_revocations(bad, where="it", public_key=keys["public_key"])
    with pytest.raises(SignatureError):
        parse_revocations(data, where="it", public_key=tmp_path / "other.pub")
    with pytest.raises(SignatureError):
        write_revocations((), path=path, private_key=tmp_path / "other", public_key=tmp_path / "other.pub")
    assert path.read_bytes() == data
