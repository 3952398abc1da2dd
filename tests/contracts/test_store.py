"""What a content store promises, however its bytes came: added on the build machine, or fetched by a node."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from registry.checkpoint import FileEntry
from registry.digest import digest_bytes
from registry.errors import CorruptError, NotFoundError
from registry.store import Store
from serving.node.fetch import fetch_blob
from serving.node.source import Deadline, DirectorySource

CONTENTS = (b"", b"content", bytes(range(256)) * 4096)


class StoreContract:
    """Subclasses say how bytes are put."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return Store.create(tmp_path / "store")

    def put(self, store: Store, data: bytes, *, scratch: Path) -> None:
        """Bring bytes into the store."""
        raise NotImplementedError

    @pytest.mark.parametrize("data", CONTENTS, ids=len)
    def test_what_was_put_is_found_by_its_digest_and_cannot_be_written(
        self, store: Store, tmp_path: Path, data: bytes
    ) -> None:
        digest = digest_bytes(data)
        assert not store.has(digest)
        self.put(store, data, scratch=tmp_path)
        assert store.has(digest)
        assert store.read_bytes(digest) == data
        assert store.path(digest).stat().st_mode & 0o777 == 0o444
        assert Store.create(store.root).read_bytes(digest) == data, "opened again"

    def test_the_same_bytes_are_kept_once(self, store: Store, tmp_path: Path) -> None:
        for _ in range(2):
            self.put(store, b"x", scratch=tmp_path)
        assert [path.name for path in store.blobs.iterdir()] == [digest_bytes(b"x").removeprefix("sha256:")]

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        with pytest.raises(NotFoundError):
            store.read_bytes(digest_bytes(b"nothing"))

    def test_changed_bytes_are_refused_and_healed_by_putting_them_again(
        self, store: Store, tmp_path: Path
    ) -> None:
        self.put(store, b"good", scratch=tmp_path)
        path = store.path(digest_bytes(b"good"))
        path.chmod(0o644)
        path.write_bytes(b"evil")
        with pytest.raises(CorruptError):
            store.read_bytes(digest_bytes(b"good"))
        self.put(store, b"good", scratch=tmp_path)
        assert store.read_bytes(digest_bytes(b"good")) == b"good"

    @pytest.mark.parametrize("share", ["link", "copy"])
    def test_a_directory_appears_whole_or_not_at_all(
        self, store: Store, tmp_path: Path, share: Literal["link", "copy"]
    ) -> None:
        for data in CONTENTS:
            self.put(store, data, scratch=tmp_path)
        files = [
            FileEntry(path=f"folder/{number}", digest=digest_bytes(data), size_bytes=len(data))
            for number, data in enumerate(CONTENTS)
        ]
        store.materialise(files, out=tmp_path / "out", share=share)
        assert [(tmp_path / "out" / file.path).read_bytes() for file in files] == list(CONTENTS)
        missing = FileEntry(path="missing", digest=digest_bytes(b"nothing"), size_bytes=7)
        with pytest.raises(NotFoundError):
            store.materialise([*files, missing], out=tmp_path / "half", share=share)
        assert not (tmp_path / "half").exists()


class TestBytesThatAreAdded(StoreContract):
    def put(self, store: Store, data: bytes, *, scratch: Path) -> None:
        store.add_bytes(data)


class TestFilesThatAreAdded(StoreContract):
    def put(self, store: Store, data: bytes, *, scratch: Path) -> None:
        (scratch / "file").write_bytes(data)
        store.add_file(scratch / "file")


class TestBlobsThatAreFetched(StoreContract):
    def put(self, store: Store, data: bytes, *, scratch: Path) -> None:
        there = Store.create(scratch / "source")
        blob = there.add_bytes(data)
        fetch_blob(
            DirectorySource(there.root),
            blob.at("file"),
            store=store,
            partial=scratch / "partial",
            received=lambda _: None,
            deadline=Deadline.of(),
        )
        assert not any((scratch / "partial").glob("*"))
