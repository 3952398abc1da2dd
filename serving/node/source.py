"""Sources: where a node fetches blobs and releases from, a directory or any static file server.

Both have the same layout: blobs at `blobs/sha256/<hex>` as in an OCI image layout, releases at
`releases/<name>/`. A file server that knows `Range` allows a fetch to be resumed; one that does not is read
from the start again. Source of the protocol: RFC 9110, section 14.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry.digest import CHUNK_BYTES
from registry.errors import ConfigurationError, CorruptError, NotFoundError, RegistryError
from serving.contract.problems import InterruptedFetchError

TIMEOUT_S = 30.0
"""Longest silence of a server."""


@dataclass(frozen=True, slots=True)
class Content:
    """An open file of a source."""

    chunks: Iterator[bytes]
    """Raises InterruptedFetchError when the source falls silent."""
    start: int
    """First byte of the chunks: the one asked for, or 0 where the server cannot resume."""
    size_bytes: int | None
    """Of the whole file, where the source says."""


class Source(Protocol):
    """A tree of files elsewhere."""

    def open(self, path: str, *, offset: int = 0) -> AbstractContextManager[Content]:
        """A file from a byte on.

        Raises:
            NotFoundError: It is not there.
            InterruptedFetchError: The source does not answer; asking again may help.
            RegistryError: The source refuses, or cannot be read.
        """
        ...

    def within(self, path: str) -> Source:
        """The tree below a folder."""
        ...


def find_source(where: str | Path) -> Source:
    """The source of a directory's path, or of a `file:`, `http:` or `https:` URL.

    Raises:
        ConfigurationError: It is none of these.
    """
    text = str(where)
    scheme = re.match(r"^([a-zA-Z][a-zA-Z0-9+.-]*)://", text)
    match scheme.group(1).lower() if scheme else None:
        case None:
            return DirectorySource(Path(text))
        case "http" | "https":
            return HttpSource(text.rstrip("/"))
        case "file":
            return DirectorySource(Path(urllib.request.url2pathname(urllib.parse.urlsplit(text).path)))
        case other:
            raise ConfigurationError(
                f"cannot pull from `{text}`: unknown scheme `{other}`",
                hint="give a directory, or an `http://` or `https://` URL",
            )


def read_small(source: Source, name: str, *, limit_bytes: int, what: str) -> bytes:
    """A small file of a source, whole.

    Args:
        source: The source.
        name: The file's path there.
        limit_bytes: More is refused.
        what: What it is to be, for the message.

    Raises:
        CorruptError: It has more than `limit_bytes`.
        NotFoundError, InterruptedFetchError, RegistryError: See `Source.open`.
    """
    data = bytearray()
    with source.open(name) as content:
        for chunk in content.chunks:
            data += chunk
            if len(data) > limit_bytes:
                raise CorruptError(
                    f"`{name}` of the source has more than {limit_bytes} bytes",
                    hint=f"this is not a {what}: check `--from`",
                )
    return bytes(data)


@dataclass(frozen=True, slots=True)
class DirectorySource:
    """A directory, perhaps on a mount."""

    root: Path

    @contextmanager
    def open(self, path: str, *, offset: int = 0) -> Iterator[Content]:
        """See `Source`."""
        file = self.root / path
        try:
            with file.open("rb") as stream:
                stream.seek(offset)
                size = os.fstat(stream.fileno()).st_size
                yield Content(iter(lambda: stream.read(CHUNK_BYTES), b""), start=offset, size_bytes=size)
        except FileNotFoundError as error:
            raise NotFoundError(
                f"`{self.root}` does not hold `{path}`", hint="check `--from`, or publish it there"
            ) from error

    def within(self, path: str) -> DirectorySource:
        """See `Source`."""
        return DirectorySource(self.root / path)


@dataclass(frozen=True, slots=True)
class HttpSource:
    """A folder of a web server."""

    url: str

    @contextmanager
    def open(self, path: str, *, offset: int = 0) -> Iterator[Content]:
        """See `Source`."""
        address = f"{self.url}/{urllib.parse.quote(path)}"
        headers = {"Accept-Encoding": "identity", "User-Agent": "rung"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        request = urllib.request.Request(address, headers=headers)
        try:
            answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)
        except urllib.error.HTTPError as error:
            with closing(error):
                raise _refused(address, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise InterruptedFetchError.of(address, error) from error
        with answer:
            yield _content(answer, address)

    def within(self, path: str) -> HttpSource:
        """See `Source`."""
        return HttpSource(f"{self.url}/{urllib.parse.quote(path)}")


def _chunks(answer: http.client.HTTPResponse, address: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = answer.read1(CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise InterruptedFetchError.of(address, error) from error
        if not chunk:
            return
        yield chunk


def _content(answer: http.client.HTTPResponse, address: str) -> Content:
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        given = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", answer.headers.get("Content-Range", ""))
        if given is None:
            raise RegistryError(
                f"`{address}` answers a part and does not say which", hint="pull from another server"
            )
        size = None if given.group(2) == "*" else int(given.group(2))
        return Content(_chunks(answer, address), start=int(given.group(1)), size_bytes=size)
    length = answer.headers.get("Content-Length", "")
    return Content(_chunks(answer, address), start=0, size_bytes=int(length) if length.isdigit() else None)


def _refused(address: str, error: urllib.error.HTTPError) -> NotFoundError | RegistryError:
    if error.code in (404, 410):
        return NotFoundError(f"`{address}` is not there", hint="check `--from`, or publish it there")
    if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return CorruptError(
            f"`{address}` is shorter than what was fetched of it",
            hint="the source is damaged or was changed: pull from another, or publish again",
        )
    if error.code >= 500 or error.code in (408, 429):
        return InterruptedFetchError.of(address, error)
    return RegistryError(
        f"`{address}` answers {error.code} {error.reason}", hint="check `--from` and your right to read it"
    )
