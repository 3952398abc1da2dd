from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry.digest import digest_bytes
from registry.errors import CorruptError, NotFoundError, RegistryError, StorageFullError
from registry.store import Store
from registry.upkeep import verify

pytestmark = pytest.mark.smoke

ROOT = Path(__file__).parents[2]


def leftovers(store: Store) -> list[Path]:
    return [path for path in store.root.rglob("*") if path.name.endswith(".partial")]


def test_what_is_added_is_found_by_its_digest_and_cannot_be_written(store, tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    blob = store.add_file(tmp_path / "file")
    assert blob.digest == digest_bytes(b"content")
    assert blob.size_bytes == 7
    assert store.read_bytes(blob.digest) == b"content"
    assert store.path(blob.digest).stat().st_mode & 0o777 == 0o444


def test_the_same_content_is_stored_once(store):
    first = store.add_bytes(b"x")
    inode = store.path(first.digest).stat().st_ino
    assert store.add_bytes(b"x") == first
    assert store.path(first.digest).stat().st_ino == inode
    assert len(list(store.blobs.iterdir())) == 1


@pytest.mark.parametrize("digest", ["sha256:" + "0" * 64, "sha256:../../etc/passwd", "", "md5:0"])
def test_what_is_not_there_is_not_found(store, digest):
    assert not store.has(digest)
    with pytest.raises(NotFoundError, match="does not hold"):
        store.path(digest)


def test_adding_a_missing_file_is_not_found(store, tmp_path):
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(NotFoundError, match="no file at"):
            store.add_file(path)
    assert not leftovers(store)


def test_a_tampered_blob_is_refused_reported_and_healed_by_adding_it_again(store, tmp_path):
    blob = store.add_bytes(b"good")
    path = store.path(blob.digest)
    path.chmod(0o644)
    path.write_bytes(b"evil")
    with pytest.raises(CorruptError, match="does not have its digest"):
        store.read_bytes(blob.digest)
    for share in ("link", "copy"):
        with pytest.raises(CorruptError):
            store.materialise([blob.at("f")], out=tmp_path / "out", share=share)
        assert not (tmp_path / "out").exists()
    assert [(p.kind, p.subject) for p in verify(store)] == [("corrupt", blob.digest)]
    store.add_bytes(b"good")
    assert verify(store) == []


def test_a_directory_appears_whole_with_the_asked_sharing(store, tmp_path):
    blob = store.add_bytes(b"data")
    store.materialise([blob.at("a/b.txt"), blob.at("c")], out=tmp_path / "linked")
    store.materialise([blob.at("a/b.txt")], out=tmp_path / "copied", share="copy")
    assert (tmp_path / "linked/a/b.txt").samefile(store.path(blob.digest))
    assert not (tmp_path / "copied/a/b.txt").samefile(store.path(blob.digest))
    assert (tmp_path / "copied/a/b.txt").read_bytes() == b"data"


def test_a_directory_that_is_not_empty_is_left_alone(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("mine")
    with pytest.raises(RegistryError, match="not an empty directory"):
        store.materialise([store.add_bytes(b"x").at("f")], out=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "store"]


@pytest.mark.parametrize("path", ["../x", "/etc/x", "a/../../x", ""])
def test_a_path_that_leads_outside_is_refused(store, path):
    with pytest.raises(RegistryError, match="not a relative path inside the tree"):
        store.add_bytes(b"x").at(path)


def test_an_artifact_is_found_by_its_digest_and_put_once(store, make_manifest):
    manifest = make_manifest(store)
    assert store.put_artifact(manifest) == store.put_artifact(manifest) == manifest.digest
    assert store.find_artifact(manifest.digest) == manifest
    assert store.artifacts() == [manifest.digest]
    assert store.has_artifact(manifest.digest)


def test_an_artifact_without_its_files_is_refused(store, make_manifest):
    manifest = make_manifest(Store.create(store.root.parent / "elsewhere"))
    with pytest.raises(NotFoundError, match="does not hold"):
        store.put_artifact(manifest)
    assert store.artifacts() == []


def test_a_blob_that_is_no_manifest_is_refused(store):
    blob = store.add_bytes(b"{}")
    with pytest.raises(CorruptError, match="not an artifact's manifest"):
        store.find_artifact(blob.digest)


def test_another_layout_version_is_refused(store):
    store.layout.write_text('{"imageLayoutVersion":"9.0.0"}')
    with pytest.raises(RegistryError, match=r"not an OCI image layout of version 1\.0\.0"):
        Store.create(store.root)
    assert [problem.kind for problem in verify(store)] == ["index"]


WRITER = """
import sys
from pathlib import Path
from registry.artifact import Manifest
from registry.store import Store
store, manifest = Store(Path(sys.argv[1])), Manifest.model_validate_json(sys.argv[2])
print("ready", flush=True)
for number in range(int(sys.argv[3]), int(sys.argv[4])):
    blob = store.add_bytes(b"%d" % number * 5000)
    store.put_artifact(manifest.model_copy(update={"files": (blob.at("model.onnx"),)}))
"""


def start_writer(store: Store, manifest, *, first: int, last: int) -> subprocess.Popen[bytes]:
    arguments = [str(store.root), manifest.model_dump_json(), str(first), str(last)]
    return subprocess.Popen([sys.executable, "-c", WRITER, *arguments], cwd=ROOT, stdout=subprocess.PIPE)


def test_two_processes_write_at_once(store, make_manifest):
    manifest = make_manifest(store)
    processes = [start_writer(store, manifest, first=first, last=first + 20) for first in (0, 10)]
    assert [process.wait() for process in processes if process.communicate()] == [0, 0]
    assert len(store.artifacts()) == 30
    assert verify(store) == []


@pytest.mark.parametrize("delay_s", [0.0, 0.013, 0.041, 0.097])
def test_what_a_killed_writer_leaves_is_named_by_verify_and_removed_by_the_next_writer(
    store, make_manifest, delay_s
):
    with start_writer(store, make_manifest(store), first=0, last=10**6) as process:
        process.stdout.readline()
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
    found = verify(store)
    assert {problem.kind for problem in found} <= {"leftover"}
    assert len(found) == len(leftovers(store))
    store.put_artifact(make_manifest(store, data=b"the next writer"))
    assert verify(store) == []
    assert not leftovers(store)
    assert all(store.has_artifact(digest) for digest in store.artifacts())


def test_a_full_disk_is_said_and_nothing_half_written_stays(tmp_path):
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small file system can be mounted by root alone")
    try:
        store = Store.create(mount / "store")
        blob = store.add_bytes(b"x" * 200_000)
        (tmp_path / "big").write_bytes(os.urandom(2_000_000))
        with pytest.raises(StorageFullError, match="no space left") as caught:
            store.add_file(tmp_path / "big")
        assert caught.value.exit_code == 3
        with pytest.raises(StorageFullError):
            store.materialise([blob.at(str(n)) for n in range(9)], out=mount / "out", share="copy")
        assert not leftovers(store)
        assert sorted(path.name for path in mount.iterdir()) == ["store"]
        assert verify(store) == []
        assert store.read_bytes(blob.digest) == b"x" * 200_000
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_file_size_limit_counts_as_full(store, tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 200_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        with pytest.raises(StorageFullError, match="file size limit"):
            store.add_file(tmp_path / "big")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not leftovers(store)
    assert not list(store.blobs.iterdir())
