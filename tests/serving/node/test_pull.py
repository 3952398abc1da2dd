import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from matrices.releases.files import write_release
from registry.artifact import MANIFEST_NAME
from registry.digest import digest_file
from registry.errors import (
    ConfigurationError,
    CorruptError,
    NotFoundError,
    RefusedError,
    SignatureError,
    StorageFullError,
    UnknownNameError,
)
from registry.signing import generate_keys
from registry.store import Store
from serving.contract.problems import InterruptedFetchError
from serving.node import fetch
from serving.node.choose import Wanted
from serving.node.directory import NodeDirectory
from serving.node.host import this_host
from serving.node.load import read_bundle
from serving.node.pull import pull, pull_artifact, pull_wanted
from serving.node.source import DirectorySource, find_source
from tests.contracts.file_server import file_server
from tests.serving.support import make_cell, make_manifest, make_release

BIG = 3 << 20


@pytest.fixture
def published(tmp_path):
    """A source with one release of two artifacts that share their weights."""
    root = tmp_path / "source"
    store = Store.create(root / "store")
    weights = store.add_bytes(os.urandom(1 << 16) * (BIG >> 16))
    cells = []
    for recipe in ("fp32", "w4g32-gptq"):
        code = store.add_bytes(f"code of {recipe}".encode())
        files = (code.at("model.onnx"), weights.at("weights.safetensors"))
        manifest = make_manifest(recipe=recipe, files=files)
        store.put_artifact(manifest)
        cells.append(make_cell(manifest, tiers={"tool-calling": 1}))
    generate_keys(tmp_path / "key", tmp_path / "key.pub")
    release = make_release(*cells)
    write_release(release, directory=root / "releases" / "r1", private_key=tmp_path / "key")
    return Published(root, release, tmp_path / "key.pub", weights.digest)


class Published:
    def __init__(self, root, release, public_key, weights):
        self.root, self.release, self.public_key, self.weights = root, release, public_key, weights
        self.manifest = release.cells[0].manifest

    def blob(self, digest=None):
        return self.root / "store" / "blobs" / "sha256" / (digest or self.weights).removeprefix("sha256:")

    def damage(self, digest=None, *, data=None):
        path = self.blob(digest)
        path.chmod(0o644)
        path.write_bytes(data if data is not None else path.read_bytes()[:-1] + b"\0x"[:1])

    def pull(self, out, *, source=None, artifacts=None, report=None):
        source = source or DirectorySource(self.root)
        return pull(
            blobs=source.within("store"),
            release=source.within("releases/r1"),
            public_key=self.public_key,
            into=NodeDirectory(out),
            artifacts=artifacts,
            report=report,
        )


def tree(path):
    return {p.relative_to(path).as_posix(): digest_file(p) for p in sorted(path.rglob("*")) if p.is_file()}


def test_pull_brings_the_release_and_whole_bundles(published, tmp_path):
    seen = []
    got = published.pull(tmp_path / "node", report=seen.append)
    assert got.release == published.release
    assert [bundle.manifest for bundle in got.bundles] == [cell.manifest for cell in published.release.cells]
    for bundle in got.bundles:
        assert set(tree(bundle.path)) == {"model.onnx", "weights.safetensors", MANIFEST_NAME}
        assert digest_file(bundle.path / MANIFEST_NAME) == bundle.manifest.digest
    assert not list((tmp_path / "node" / "partial").iterdir())
    assert seen[-1].done_bytes == seen[-1].total_bytes
    inodes = {(bundle.path / "weights.safetensors").stat().st_ino for bundle in got.bundles}
    assert len(inodes) == 1, "weights that artifacts share are on the disk once"


def pull_by_name(published, name, out):
    return pull_wanted(
        name,
        source=DirectorySource(published.root),
        public_key=published.public_key,
        into=NodeDirectory(out),
        wanted=Wanted(everything=True),
        host=this_host(),
    )


def test_a_release_under_another_name_is_refused_and_nothing_is_written(published, tmp_path):
    releases = published.root / "releases"
    (releases / "r2").symlink_to(releases / "r1")
    with pytest.raises(RefusedError, match="the source holds release `r1` under the name `r2`") as caught:
        pull_by_name(published, "r2", tmp_path / "node")
    assert caught.value.exit_code == 8
    assert not (tmp_path / "node").exists()
    assert pull_by_name(published, "r1", tmp_path / "node").release == published.release


@pytest.mark.parametrize("name", ["../r1", "r1/../r1", "r1/", "/r1", "..", ".", "", "r1?x", "r1\\x"])
def test_only_the_plain_name_of_a_release_is_asked_of_a_source(published, tmp_path, name):
    with pytest.raises(ConfigurationError, match="cannot be the name of a release") as caught:
        pull_by_name(published, name, tmp_path / "node")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "node").exists()


def test_a_release_that_was_renamed_in_the_node_is_not_served(published, tmp_path):
    pull_by_name(published, "r1", tmp_path / "node")
    (tmp_path / "node" / "releases" / "r1").rename(tmp_path / "node" / "releases" / "r2")
    with pytest.raises(RefusedError, match="holds release `r1` under the name `r2`"):
        NodeDirectory(tmp_path / "node").read_release("r2")


def test_pulling_again_fetches_nothing(published, tmp_path):
    published.pull(tmp_path / "node")
    before = tree(tmp_path / "node")
    source = CountingSource(published.root)
    seen = []
    published.pull(tmp_path / "node", source=source, report=seen.append)
    assert tree(tmp_path / "node") == before
    assert not [path for path in source.paths if "blobs" in path]
    assert not seen


def test_a_node_is_a_source_for_other_nodes(published, tmp_path):
    published.pull(tmp_path / "first")
    got = published.pull(tmp_path / "second", source=DirectorySource(tmp_path / "first"))
    assert len(got.bundles) == 2


def test_one_artifact_is_pulled_by_its_digest_or_its_cell(published, tmp_path):
    cell = published.release.cells[1]
    for number, name in enumerate((cell.cell.id, cell.manifest.digest)):
        got = published.pull(tmp_path / str(number), artifacts=[name])
        assert [bundle.manifest for bundle in got.bundles] == [cell.manifest]
    with pytest.raises(UnknownNameError, match="did you mean"):
        published.pull(tmp_path / "2", artifacts=[cell.cell.id + "x"])


@pytest.mark.parametrize("data", [b"", b"short", b"x" * BIG, b"x" * (BIG + 1)])
def test_a_tampered_blob_is_refused_and_leaves_nothing(published, tmp_path, data):
    published.damage(data=data)
    with pytest.raises(CorruptError, match=r"weights\.safetensors"):
        published.pull(tmp_path / "node")
    assert not list((tmp_path / "node" / "partial").iterdir())
    assert not (tmp_path / "node" / "bundles").exists()


@pytest.mark.parametrize("name", ["release.json", "release.sig"])
def test_a_tampered_release_or_signature_is_refused_before_anything_is_fetched(published, tmp_path, name):
    path = published.root / "releases" / "r1" / name
    text = path.read_text()
    path.write_text(
        text.replace("ada", "eve") if name == "release.json" else re.sub(r'"sig":"...', '"sig":"AAA', text)
    )
    assert path.read_text() != text
    source = CountingSource(published.root)
    with pytest.raises(SignatureError):
        published.pull(tmp_path / "node", source=source)
    assert not [path for path in source.paths if "blobs" in path]
    assert not (tmp_path / "node").exists()


def test_a_release_of_another_key_is_refused(published, tmp_path):
    generate_keys(tmp_path / "other", tmp_path / "other.pub")
    published.public_key = tmp_path / "other.pub"
    with pytest.raises(SignatureError):
        published.pull(tmp_path / "node")


def test_a_manifest_changed_inside_a_release_breaks_its_signature(published, tmp_path):
    path = published.root / "releases" / "r1" / "release.json"
    document = json.loads(path.read_text())
    document["cells"][0]["manifest"]["memory_bytes"] += 1
    path.write_text(json.dumps(document))
    with pytest.raises(SignatureError):
        published.pull(tmp_path / "node")


def test_another_release_of_the_same_name_is_refused(published, tmp_path):
    published.pull(tmp_path / "node")
    changed = published.release.model_copy(update={"created_by": "grace"})
    (tmp_path / "elsewhere").mkdir()
    write_release(changed, directory=tmp_path / "elsewhere" / "r1", private_key=tmp_path / "key")
    with pytest.raises(RefusedError, match="another release"):
        pull(
            blobs=DirectorySource(published.root / "store"),
            release=DirectorySource(tmp_path / "elsewhere" / "r1"),
            public_key=published.public_key,
            into=NodeDirectory(tmp_path / "node"),
        )


def test_a_damaged_release_on_the_node_is_replaced(published, tmp_path):
    published.pull(tmp_path / "node")
    path = tmp_path / "node" / "releases" / "r1" / "release.json"
    path.write_bytes(path.read_bytes()[:100])
    assert published.pull(tmp_path / "node").release == published.release


def test_a_bundle_that_was_tampered_with_on_the_node_is_made_anew(published, tmp_path):
    got = published.pull(tmp_path / "node")
    weights = got.bundles[0].path / "weights.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(b"\0" * BIG)  # the blob in the store is the same file
    (got.bundles[1].path / "stray").write_text("not in the manifest")
    again = published.pull(tmp_path / "node")
    for bundle in again.bundles:
        assert read_bundle(bundle.path).manifest == bundle.manifest


def test_what_the_source_lacks_is_named(published, tmp_path):
    published.blob().unlink()
    with pytest.raises(NotFoundError, match="blobs/sha256"):
        published.pull(tmp_path / "node")
    with pytest.raises(NotFoundError, match=r"release\.json"):
        pull(
            blobs=DirectorySource(tmp_path),
            release=DirectorySource(tmp_path / "none"),
            into=NodeDirectory(tmp_path / "n2"),
            public_key=published.public_key,
        )


def test_an_unknown_scheme_is_refused():
    with pytest.raises(ConfigurationError, match="ftp"):
        find_source("ftp://host/path")


@pytest.mark.parametrize("ranges", [True, False])
def test_pull_over_http_goes_on_where_an_interrupted_one_stopped(published, tmp_path, ranges, monkeypatch):
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.0)
    with file_server(published.root, ranges=ranges, cut_after=[BIG // 3, BIG // 2], cut_bytes=BIG) as (
        url,
        log,
    ):
        got = published.pull(tmp_path / "node", source=find_source(url))
    assert all(read_bundle(bundle.path) for bundle in got.bundles)
    asked = [entry for entry in log if published.weights.removeprefix("sha256:") in entry[0]]
    assert len(asked) == 3
    assert asked[0][1] is None
    assert asked[1][1] == f"bytes={BIG // 3}-"


def test_the_rest_of_a_file_comes_with_its_start_and_the_size_of_the_whole(published):
    whole = published.blob().read_bytes()
    path = published.blob().relative_to(published.root).as_posix()
    with file_server(published.root, ranges=True) as (url, _):
        for offset in (0, BIG // 2):
            with find_source(url).open(path, offset=offset) as content:
                assert (content.start, content.size_bytes) == (offset, BIG)
                assert b"".join(content.chunks) == whole[offset:]


def test_pull_gives_up_on_a_source_that_brings_nothing_and_keeps_what_came(published, tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.0)
    node = tmp_path / "node"
    with (
        file_server(published.root, ranges=True, cut_after=[BIG // 3] + [0] * 20, cut_bytes=BIG) as (url, _),
        pytest.raises(InterruptedFetchError, match="goes on where it stopped"),
    ):
        published.pull(node, source=find_source(url))
    [partial] = (node / "partial").iterdir()
    assert partial.stat().st_size == BIG // 3
    with file_server(published.root, ranges=True) as (url, log):
        published.pull(node, source=find_source(url))
    assert (log[-1][1] or log[-2][1]) == f"bytes={BIG // 3}-"


def test_a_corrupt_partial_file_is_thrown_away(published, tmp_path):
    partial = tmp_path / "node" / "partial" / published.weights.removeprefix("sha256:")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"garbage")
    got = published.pull(tmp_path / "node")
    assert read_bundle(got.bundles[0].path)
    assert not partial.exists()


def test_a_partial_file_that_is_too_long_is_thrown_away(published, tmp_path):
    partial = tmp_path / "node" / "partial" / published.weights.removeprefix("sha256:")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(published.blob().read_bytes() + b"more")
    assert read_bundle(published.pull(tmp_path / "node").bundles[0].path)


def test_http_refusals_are_named(published, tmp_path):
    with file_server(published.root, status=403) as (url, _), pytest.raises(Exception, match="403") as caught:
        published.pull(tmp_path / "node", source=find_source(url))
    assert caught.value.exit_code == 3


def test_a_pull_killed_at_any_moment_is_completed_by_the_next(published, tmp_path):
    node = tmp_path / "node"
    with file_server(published.root, ranges=True, pause_s=0.004) as (url, log):
        for kill_at in (0.25, 0.5, 0.9):
            worker = start_pull(published, url, node)
            deadline = time.monotonic() + 30
            while received(node, published) < kill_at * BIG and time.monotonic() < deadline:
                time.sleep(0.001)
            os.kill(worker.pid, signal.SIGKILL)
            worker.communicate()
            assert not (node / "bundles").exists()
        held = received(node, published)
        assert held >= 0.5 * BIG
        log.clear()
        assert finish(start_pull(published, url, node)) == (0, "")
    resumed = [asked for path, asked in log if published.weights.removeprefix("sha256:") in path]
    assert resumed == [f"bytes={held}-"]
    for cell in published.release.cells:
        assert read_bundle(NodeDirectory(node).bundle(cell.manifest.digest)).manifest == cell.manifest
    assert not list((node / "partial").iterdir())


def test_pulls_at_the_same_time_share_the_work(published, tmp_path):
    node = tmp_path / "node"
    with file_server(published.root, ranges=True, pause_s=0.002) as (url, log):
        workers = [start_pull(published, url, node) for _ in range(4)]
        assert [finish(worker) for worker in workers] == [(0, "")] * 4
    blobs = [path for path, _ in log if "blobs" in path]
    assert sorted(blobs) == sorted(set(blobs)), "every blob was fetched once"
    for cell in published.release.cells:
        assert read_bundle(NodeDirectory(node).bundle(cell.manifest.digest)).manifest == cell.manifest


def test_a_full_disk_is_told_and_leaves_nothing_half_written(published, tmp_path):
    node = tmp_path / "node"
    status, said = finish(start_pull(published, published.root, node, limit=BIG // 2))
    assert status == 3
    assert "cannot write" in said
    assert not list((node / "partial").iterdir())
    assert not (node / "bundles").exists()
    published.pull(node)


def test_too_little_space_is_told_before_anything_is_fetched(published, tmp_path):
    huge = published.manifest.files[1].model_copy(update={"size_bytes": 1 << 50})
    manifest = published.manifest.model_copy(update={"files": (huge,), "entry": huge.path})
    source = CountingSource(published.root)
    with pytest.raises(StorageFullError, match="needed"):
        pull_artifact(manifest, blobs=source, into=NodeDirectory(tmp_path / "node"))
    assert not source.paths


class CountingSource(DirectorySource):
    """A directory that remembers what was asked for."""

    def __init__(self, root, paths=None):
        super().__init__(root)
        object.__setattr__(self, "paths", [] if paths is None else paths)

    def open(self, path, *, offset=0):
        self.paths.append(f"{self.root}/{path}")
        return super().open(path, offset=offset)

    def within(self, path):
        return CountingSource(self.root / path, self.paths)


def received(node, published):
    try:
        return (node / "partial" / published.weights.removeprefix("sha256:")).stat().st_size
    except FileNotFoundError:
        return 0


def start_pull(published, source, node, *, limit=None):
    code = f"""
import resource, sys
from pathlib import Path
from registry.errors import RungError
from serving.node.directory import NodeDirectory
from serving.node.pull import pull
from serving.node.source import find_source
limit = {limit}
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
source = find_source({str(source)!r})
try:
    pull(
        blobs=source.within("store"), release=source.within("releases/r1"),
        into=NodeDirectory(Path({str(node)!r})),
        public_key=Path({str(published.public_key)!r}),
    )
except RungError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""
    return subprocess.Popen(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3]
    )


def finish(worker):
    _, said = worker.communicate(timeout=60)
    return worker.returncode, said
