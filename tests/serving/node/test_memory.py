"""What a node refuses to have played back to it: older releases, withheld lists, another key's releases."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from matrices.releases.files import write_release
from matrices.releases.revocations import Revocation, write_revocations
from registry.errors import NotFoundError, RefusedError, SchemaError, SignatureError
from registry.signing import generate_keys
from registry.store import Store
from serving.node.choose import Wanted, choose
from serving.node.directory import NodeDirectory
from serving.node.host import installed_runtimes, this_host
from serving.node.memory import NodeMemory, read_memory, remember_release
from serving.node.pull import pull_wanted
from serving.node.source import DirectorySource
from tests.serving.support import make_cell, make_manifest, make_release

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=30)


class Publisher:
    """A source that publishes releases of one artifact."""

    def __init__(self, root):
        self.root = root
        self.private, self.public = root / "key", root / "key.pub"
        store = Store.create(root / "store")
        code, weights = store.add_bytes(b"code"), store.add_bytes(b"weights")
        self.manifest = make_manifest(files=(code.at("model.onnx"), weights.at("weights.safetensors")))
        here = installed_runtimes()["onnxruntime"]
        tiers = {"tool-calling": 1, "reasoning": 1}
        self.cell = make_cell(self.manifest, tiers=tiers, runtime_version=here)
        generate_keys(self.private, self.public)

    def publish(self, name, version, *, expires_at=LATER, revocations=0, key=None, family="tiny-family"):
        line = {"version": version, "expires_at": expires_at, "revocations": revocations, "family": family}
        release = make_release(self.cell, name=name).model_copy(update=line)
        directory = self.root / "releases" / name
        return write_release(release, directory=directory, private_key=key or self.private)

    def revoke(self, *why):
        revoked = tuple(
            Revocation(artifact=self.manifest.digest, cell=self.cell.cell.id, why=one, at=NOW) for one in why
        )
        path = self.root / "revocations.json"
        return write_revocations(revoked, path=path, private_key=self.private, public_key=self.public)

    def pull(self, name, node, *, key=None, wanted=None, **flags):
        return pull_wanted(
            name,
            source=DirectorySource(self.root),
            public_key=key or self.public,
            into=NodeDirectory(node),
            wanted=wanted or Wanted(everything=True),
            host=this_host(),
            **flags,
        )


@pytest.fixture
def publisher(tmp_path):
    return Publisher(tmp_path / "source")


@pytest.fixture
def node(tmp_path):
    return tmp_path / "node"


def test_a_release_of_a_lower_version_is_refused_and_the_node_keeps_what_it_has(publisher, node):
    for version in (1, 2):
        publisher.publish(f"r{version}", version)
    publisher.pull("r2", node)
    with pytest.raises(RefusedError, match="it has version 1, this node has had `r2` of 2"):
        publisher.pull("r1", node)
    assert not (node / "releases/r1").exists()
    assert NodeDirectory(node).read_release().name == "r2"


def test_what_was_pulled_last_is_what_a_node_serves_and_the_older_one_is_refused(publisher, node):
    for version in (1, 2):
        publisher.publish(f"r{version}", version)
        publisher.pull(f"r{version}", node)
    assert NodeDirectory(node).read_release().name == "r2"
    with pytest.raises(RefusedError, match="it has version 1"):
        NodeDirectory(node).read_release("r1")


def test_a_node_that_remembers_no_pull_serves_the_newest_of_its_releases(publisher, node):
    for version, name in ((9, "r9"), (10, "r10"), (2, "r2")):
        publisher.publish(name, version)
        publisher.pull(name, node, allow_older=True)
    directory = NodeDirectory(node)
    assert directory.read_release().name == "r2", "going back was asked for"
    (node / "memory.json").unlink()
    (node / "releases/.r11.0a.partial").mkdir()
    assert directory.read_release().name == "r10"
    assert directory.read_release("r9").name == "r9"
    (node / "releases/r10/release.sig").write_bytes(b"{}")
    assert directory.read_release().name == "r9", "one that does not verify is none"
    for name in ("r9", "r2"):
        (node / "releases" / name / "release.sig").write_bytes(b"{}")
    with pytest.raises(SignatureError):
        directory.read_release()


def test_a_node_with_releases_of_two_families_serves_the_last_pulled_or_the_family_asked_for(publisher, node):
    for name, version, family in (("a1", 1, "a"), ("a2", 2, "a"), ("b7", 7, "b"), ("a3", 3, "a")):
        publisher.publish(name, version, family=family)
        publisher.pull(name, node)
    directory = NodeDirectory(node)
    assert directory.read_release().name == "a3"
    assert directory.read_release(family="b").name == "b7"
    assert directory.read_release(family="a").name == "a3"
    with pytest.raises(NotFoundError, match="no release of `c`"):
        directory.read_release(family="c")
    with pytest.raises(NotFoundError, match="is of `a`, not of `b`"):
        directory.read_release("a3", family="b")
    (node / "memory.json").unlink()
    assert directory.read_release(family="b").name == "b7"
    assert directory.read_release().name == "b7", "the highest version of all"


def test_going_back_takes_an_explicit_option_and_is_recorded(publisher, node):
    for version in (1, 2):
        publisher.publish(f"r{version}", version)
        publisher.pull(f"r{version}", node)
    publisher.pull("r1", node, allow_older=True)
    assert NodeDirectory(node).read_release().name == "r1"
    assert [(one.what, one.detail) for one in read_memory(node).acts] == [
        ("older release", "r1 (version 1) after r2 (2)")
    ]
    publisher.pull("r1", node)
    publisher.pull("r2", node)
    assert NodeDirectory(node).read_release().name == "r2"
    assert len(read_memory(node).acts) == 1


def test_a_release_without_a_version_is_older_than_all_others(publisher, node):
    publisher.publish("old", 0, expires_at=None)
    publisher.publish("new", 1)
    publisher.pull("old", node)
    publisher.pull("new", node)
    with pytest.raises(RefusedError, match="it has version 0"):
        publisher.pull("old", node)


def test_releases_without_versions_are_pulled_in_any_order(publisher, node):
    publisher.publish("a", 0, expires_at=None)
    publisher.publish("b", 0, expires_at=None)
    for name in ("a", "b", "a"):
        publisher.pull(name, node)
        assert NodeDirectory(node).read_release().name == name


def test_two_releases_of_one_version_are_refused(publisher, node):
    publisher.publish("r1", 1)
    publisher.publish("other", 1, expires_at=LATER + timedelta(days=1))
    publisher.pull("r1", node)
    with pytest.raises(RefusedError, match="there are two of version 1"):
        publisher.pull("other", node)


def test_each_family_has_versions_of_its_own(publisher, node):
    publisher.publish("mine", 5)
    publisher.publish("theirs", 1, family="another-family")
    publisher.pull("mine", node)
    publisher.pull("theirs", node)
    assert set(read_memory(node).families) == {"tiny-family", "another-family"}


def test_a_pull_that_fails_halfway_leaves_the_node_what_it_may_serve(publisher, node):
    publisher.publish("r1", 1)
    publisher.publish("r2", 2)
    publisher.pull("r1", node)
    with pytest.raises(RefusedError):
        publisher.pull("r2", node, wanted=Wanted(tasks=("unheard-of",)))
    assert NodeDirectory(node).read_release("r1").name == "r1"


@pytest.mark.parametrize("wanted", [Wanted(), Wanted(everything=True)])
def test_an_expired_release_is_not_pulled(publisher, node, wanted):
    publisher.publish("r1", 1, expires_at=NOW - timedelta(seconds=1))
    with pytest.raises(RefusedError, match="expired"):
        publisher.pull("r1", node, wanted=wanted)


def test_a_revoked_artifact_is_neither_pulled_nor_served(publisher, node):
    publisher.publish("r1", 1)
    publisher.pull("r1", node)
    publisher.revoke("withdrawn by Ada: harmful")
    with pytest.raises(RefusedError, match="revoked: withdrawn by Ada: harmful"):
        publisher.pull("r1", node, wanted=Wanted(artifacts=(publisher.cell.cell.id,)))
    assert publisher.pull("r1", node).bundles == ()
    with pytest.raises(RefusedError, match="was revoked: withdrawn by Ada: harmful"):
        choose(NodeDirectory(node), Wanted(tasks=("reasoning",)))


def test_an_older_list_does_not_give_a_revoked_artifact_back(publisher, node):
    publisher.publish("r1", 1)
    publisher.revoke("one")
    old = (publisher.root / "revocations.json").read_bytes()
    publisher.revoke("two")
    publisher.pull("r1", node)
    (publisher.root / "revocations.json").write_bytes(old)
    publisher.pull("r1", node)
    (publisher.root / "revocations.json").unlink()
    publisher.pull("r1", node)
    assert NodeDirectory(node).read_revocations().reasons == {publisher.manifest.digest: "two"}


def test_a_source_that_withholds_the_list_is_refused(publisher, node):
    publisher.publish("r1", 1, revocations=1)
    with pytest.raises(RefusedError, match="made after the revocation list 1, the source gives none"):
        publisher.pull("r1", node)
    publisher.revoke("so")
    publisher.pull("r1", node)


def test_a_list_that_was_tampered_with_stops_pull_and_serve(publisher, node):
    publisher.publish("r1", 1)
    publisher.revoke("so")
    publisher.pull("r1", node)
    path = node / "revocations.json"
    path.write_bytes(path.read_bytes().replace(b'"so"', b'"no"'))
    with pytest.raises(SignatureError):
        choose(NodeDirectory(node), Wanted(tasks=("reasoning",)))


def test_another_key_replaces_the_trusted_one_only_by_an_explicit_option(publisher, node, tmp_path):
    publisher.publish("r1", 1)
    publisher.revoke("so")
    publisher.pull("r1", node)
    before = (node / "trusted.pem").read_bytes()
    generate_keys(tmp_path / "evil", tmp_path / "evil.pub")
    publisher.publish("r2", 2, key=tmp_path / "evil")
    (publisher.root / "revocations.json").unlink()
    with pytest.raises(RefusedError, match="trusts the key"):
        publisher.pull("r2", node, key=tmp_path / "evil.pub")
    assert (node / "trusted.pem").read_bytes() == before
    publisher.pull("r2", node, key=tmp_path / "evil.pub", replace_key=True)
    assert (node / "trusted.pem").read_bytes() == (tmp_path / "evil.pub").read_bytes()
    assert [one.what for one in read_memory(node).acts] == ["replaced key"]
    assert NodeDirectory(node).read_release().name == "r2"
    assert NodeDirectory(node).read_revocations().revoked == ()


def test_a_memory_that_cannot_be_read_stops_a_start(publisher, node):
    publisher.publish("r1", 1)
    publisher.pull("r1", node)
    (node / "memory.json").write_text("{}{")
    with pytest.raises(SchemaError, match="memory"):
        NodeDirectory(node).read_release()


def test_a_directory_from_before_there_was_a_memory_is_served(publisher, node):
    publisher.publish("r1", 0, expires_at=None)
    publisher.pull("r1", node)
    (node / "memory.json").unlink()
    assert NodeDirectory(node).read_release().name == "r1"
    assert read_memory(node) == NodeMemory()


def test_remembering_the_same_again_writes_nothing(publisher, node):
    publisher.publish("r1", 1)
    release = publisher.pull("r1", node).release
    before = (node / "memory.json").read_bytes()
    remember_release(node, release)
    assert (node / "memory.json").read_bytes() == before
