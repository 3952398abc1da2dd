"""What every source promises to a fetch, asked of a directory and of real static file servers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.checkpoint import FileEntry
from registry.digest import digest_bytes
from registry.errors import CorruptError, NotFoundError
from registry.store import Store
from serving.contract.problems import InterruptedFetchError
from serving.node import fetch
from serving.node.fetch import fetch_blob
from serving.node.source import Deadline, DirectorySource, HttpSource, Source, find_source
from tests.contracts.file_server import file_server

DATA = bytes(range(256)) * 4096
FILE = FileEntry(path="weights", digest=digest_bytes(DATA), size_bytes=len(DATA))
BLOB = "blobs/sha256/" + FILE.digest.removeprefix("sha256:")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The folder that sources show: one blob, as a release's mirror holds it."""
    path = tmp_path / "mirror" / "store" / BLOB
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    return tmp_path / "mirror"


class SourceContract:
    """Subclasses give a `source` of the folder `root`."""

    resumes = True
    """Whether it can begin in the midst of a file."""

    @pytest.fixture
    def store(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
        monkeypatch.setattr(fetch, "BACKOFF_S", 0.0)
        return Store.create(tmp_path / "node")

    @pytest.fixture
    def blobs(self, source: Source) -> Source:
        return source.within("store")

    def fetch(self, blobs: Source, store: Store, file: FileEntry = FILE) -> list[int]:
        """Fetch a blob; the progress that was told."""
        told: list[int] = []
        fetch_blob(
            blobs,
            file,
            store=store,
            partial=store.root / "partial",
            received=told.append,
            deadline=Deadline.of(),
        )
        return told

    def test_a_file_is_read_whole_and_its_size_is_told(self, blobs: Source) -> None:
        with blobs.open(BLOB) as content:
            assert (content.start, content.size_bytes) == (0, len(DATA))
            assert b"".join(content.chunks) == DATA

    def test_a_file_is_read_from_the_byte_asked_for_or_from_the_start(self, blobs: Source) -> None:
        with blobs.open(BLOB, offset=1000) as content:
            assert content.start == (1000 if self.resumes else 0)
            assert content.size_bytes == len(DATA)
            assert b"".join(content.chunks) == DATA[content.start :]

    def test_what_is_not_there_is_not_found(self, blobs: Source, store: Store) -> None:
        other = FILE.model_copy(update={"digest": digest_bytes(b"other")})
        with pytest.raises(NotFoundError):
            self.fetch(blobs, store, other)
        with pytest.raises(NotFoundError), blobs.open("nothing"):
            pass

    def test_a_fetch_brings_the_blob(self, blobs: Source, store: Store) -> None:
        told = self.fetch(blobs, store)
        assert store.read_bytes(FILE.digest) == DATA
        assert told == sorted(told)
        assert told[-1] == len(DATA)
        assert self.fetch(blobs, store) == [], "what is there is not fetched again"

    def test_a_fetch_goes_on_with_what_an_earlier_one_left(self, blobs: Source, store: Store) -> None:
        self.leave(store, DATA[:5000])
        told = self.fetch(blobs, store)
        assert store.read_bytes(FILE.digest) == DATA
        assert told[0] == 5000

    def test_bytes_left_behind_that_are_wrong_are_thrown_away(self, blobs: Source, store: Store) -> None:
        self.leave(store, b"x" * 5000)
        self.fetch(blobs, store)
        assert store.read_bytes(FILE.digest) == DATA

    def test_a_blob_of_other_bytes_is_refused_and_leaves_nothing(
        self, blobs: Source, store: Store, root: Path
    ) -> None:
        (root / "store" / BLOB).write_bytes(DATA[:-1] + b"!")
        with pytest.raises(CorruptError, match="does not have its digest"):
            self.fetch(blobs, store)
        self.nothing_is_left(store)

    @pytest.mark.parametrize("data", [DATA + b"more", DATA[:-1], b""], ids=["oversize", "truncated", "empty"])
    def test_a_blob_of_another_size_is_refused_and_leaves_nothing(
        self, blobs: Source, store: Store, root: Path, data: bytes
    ) -> None:
        (root / "store" / BLOB).write_bytes(data)
        with pytest.raises(CorruptError):
            self.fetch(blobs, store)
        self.nothing_is_left(store)

    def leave(self, store: Store, data: bytes) -> None:
        """What a killed fetch leaves."""
        (store.root / "partial").mkdir()
        (store.root / "partial" / FILE.digest.removeprefix("sha256:")).write_bytes(data)

    def nothing_is_left(self, store: Store) -> None:
        assert not store.has(FILE.digest)
        assert list((store.root / "partial").iterdir()) == []


class TestDirectorySource(SourceContract):
    @pytest.fixture
    def source(self, root: Path) -> Source:
        return DirectorySource(root)


class TestFileUrl(SourceContract):
    @pytest.fixture
    def source(self, root: Path) -> Source:
        return find_source(root.as_uri())


class TestHttpSource(SourceContract):
    @pytest.fixture
    def source(self, root: Path) -> Iterator[Source]:
        with file_server(root, ranges=True) as (url, _):
            yield HttpSource(url)

    def test_an_interrupted_answer_is_taken_up_where_it_stopped(self, store: Store, root: Path) -> None:
        with file_server(root, ranges=True, cut_after=[1000, 2000]) as (url, log):
            self.fetch(HttpSource(url).within("store"), store)
        assert [asked for _, asked in log] == [None, "bytes=1000-", "bytes=3000-"]
        assert store.read_bytes(FILE.digest) == DATA

    def test_a_server_that_brings_nothing_more_is_given_up_and_what_came_stays(
        self, store: Store, root: Path
    ) -> None:
        with (
            file_server(root, ranges=True, cut_after=[1000] + [0] * 20) as (url, _),
            pytest.raises(InterruptedFetchError, match="goes on where it stopped"),
        ):
            self.fetch(HttpSource(url).within("store"), store)
        [partial] = (store.root / "partial").iterdir()
        assert partial.read_bytes() == DATA[:1000]

    def test_a_server_that_is_not_there_is_an_interruption(self, store: Store, root: Path) -> None:
        with file_server(root) as (url, _):
            gone = HttpSource(url)
        with pytest.raises(InterruptedFetchError):
            self.fetch(gone.within("store"), store)


class TestHttpSourceWithoutRanges(SourceContract):
    resumes = False

    @pytest.fixture
    def source(self, root: Path) -> Iterator[Source]:
        with file_server(root, ranges=False) as (url, _):
            yield HttpSource(url)

    def test_an_interrupted_answer_is_read_from_the_start_again(self, store: Store, root: Path) -> None:
        with file_server(root, cut_after=[1000]) as (url, log):
            self.fetch(HttpSource(url).within("store"), store)
        assert [asked for _, asked in log] == [None, "bytes=1000-"]
        assert store.read_bytes(FILE.digest) == DATA
