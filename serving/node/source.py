"""Sources: where a node fetches blobs and releases from, a directory or any static file server.

Both have the same layout: blobs at `blobs/sha256/<hex>` as in an OCI image layout, releases at
`releases/<name>/`. A file server that knows `Range` allows a fetch to be resumed; one that does not is read
from the start again. Source of the protocol: RFC 9110, section 14.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from registry.digest import CHUNK_BYTES
from registry.errors import ConfigurationError, CorruptError, NotFoundError, RegistryError
from serving.contract.problems import InterruptedFetchError, TooSlowError

LEAST_BYTES_PER_S = 64 << 10
"""Average speed below which a pull gives up."""
PATIENCE_S = 30.0
"""Time for small files, and beside that which a size takes at this speed."""
SILENCE_S = 10.0
"""Longest silence of a server, and longest time for the head of an answer."""
MAX_REDIRECTS = 5


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


@dataclass(frozen=True, slots=True)
class Deadline:
    """When a pull gives up, however many bytes drip in."""

    at: float
    """By the monotonic clock."""

    @classmethod
    def of(cls, size_bytes: int = 0) -> Deadline:
        """The deadline of files of this size together, fetched from now on."""
        return cls(time.monotonic() + PATIENCE_S + size_bytes / LEAST_BYTES_PER_S)

    def check(self, what: str) -> None:
        """End what takes too long.

        Raises:
            TooSlowError: The time is over.
        """
        if time.monotonic() > self.at:
            raise TooSlowError(
                f"fetching `{what}` takes too long: the source brings less than "
                f"{LEAST_BYTES_PER_S >> 10} KiB/s",
                hint="pull from another source; what came stays, and the same command goes on from there",
            )


def read_small(source: Source, name: str, *, limit_bytes: int, what: str, deadline: Deadline) -> bytes:
    """A small file of a source, whole.

    Args:
        source: The source.
        name: The file's path there.
        limit_bytes: More is refused.
        what: What it is to be, for the message.
        deadline: When it must be here.

    Raises:
        CorruptError: It has more than `limit_bytes`.
        TooSlowError: It was not here in time.
        NotFoundError, InterruptedFetchError, RegistryError: See `Source.open`.
    """
    data = bytearray()
    with source.open(name) as content:
        if (content.size_bytes or 0) > limit_bytes:
            raise _too_large(name, limit_bytes=limit_bytes, what=what)
        for chunk in content.chunks:
            deadline.check(name)
            data += chunk
            if len(data) > limit_bytes:
                raise _too_large(name, limit_bytes=limit_bytes, what=what)
    return bytes(data)


def _too_large(name: str, *, limit_bytes: int, what: str) -> CorruptError:
    return CorruptError(
        f"`{name}` of the source has more than {limit_bytes} bytes",
        hint=f"this is not a {what}: check `--from`",
    )


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
            answer = _OPENER.open(request, timeout=SILENCE_S)
        except urllib.error.HTTPError as error:
            with closing(error):
                raise _refused(address, error) from error
        except (OSError, http.client.HTTPException) as error:
            raise InterruptedFetchError.of(address, error) from error
        except ValueError as error:
            raise RegistryError(
                f"`{address}` redirects to what is not an address", hint="pull from another server"
            ) from error
        with answer:
            yield _content(answer, address)

    def within(self, path: str) -> HttpSource:
        """See `Source`."""
        return HttpSource(f"{self.url}/{urllib.parse.quote(path)}")


class _Connection(http.client.HTTPConnection):
    """A connection whose server must answer in time, however slowly it writes the head of its answer."""

    def getresponse(self) -> http.client.HTTPResponse:
        late = threading.Event()
        timer = threading.Timer(SILENCE_S, self._hang_up, (late,))
        timer.start()
        try:
            answer = super().getresponse()
        finally:
            timer.cancel()
        if late.is_set():  # a head that was cut off reads like a short one
            answer.close()
            self.close()
            raise TimeoutError("the head of its answer did not come in time")
        return answer

    def _hang_up(self, late: threading.Event) -> None:
        late.set()
        with suppress(OSError, AttributeError):  # it is closed already
            self.sock.shutdown(socket.SHUT_RDWR)


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """The same with TLS."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows few redirects, and none that leads to another scheme or from the internet into this network."""

    max_redirections = MAX_REDIRECTS
    max_repeats = 1

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """The request to follow a redirect with."""
        before, after = urllib.parse.urlsplit(req.full_url), urllib.parse.urlsplit(newurl)
        why = None
        if after.scheme != before.scheme:
            why = "to another scheme"
        elif (
            after.hostname != before.hostname
            and _is_public(before.hostname)
            and not _is_public(after.hostname)
        ):
            why = "from a public to a private address"
        if why is not None:
            fp.close()
            raise RegistryError(
                f"`{req.full_url}` redirects {why}: `{newurl[:200]}`",
                hint="give the final address to `--from`",
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_public(host: str | None) -> bool:
    """Whether all addresses of a host are on the internet."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return all(ipaddress.ip_address(str(address[0]).partition("%")[0]).is_global for *_, address in found)


_OPENER = urllib.request.OpenerDirector()
for _handler in (
    urllib.request.ProxyHandler(),
    _Http(),
    _Https(),
    urllib.request.HTTPDefaultErrorHandler(),
    urllib.request.HTTPErrorProcessor(),
    _Redirects(),
):
    _OPENER.add_handler(_handler)
"""Opens `http:` and `https:` alone: no file, no FTP, no data."""


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
