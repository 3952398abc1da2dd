"""Access: which `Host`, `Origin` and `Content-Type` a request may have, against hostile web pages.

A page in somebody's browser can send requests to a server on that machine, and with a DNS name that it points
to 127.0.0.1 (DNS rebinding) it can read the answers too. So a server on loopback answers only to names that
such a page cannot have, and no server takes a body that a page may send without asking first (CSRF). Sources:
Fetch standard, "CORS-safelisted request-header"; RFC 9110, sections 7.2 and 15.5.16.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from dataclasses import dataclass

from starlette.datastructures import Headers

from serving.contract.problems import RequestError


@dataclass(frozen=True, slots=True)
class Access:
    """Which hosts and origins are answered."""

    hosts: frozenset[str] | None = None
    """Names beside those of loopback, in small letters; None: any host and origin."""

    @classmethod
    def of(cls, address: str, *, hosts: tuple[str, ...] = ()) -> Access:
        """The rule for a server that listens on an address.

        Args:
            address: IP address.
            hosts: Names that it is to answer to. Without any, one that is not on loopback answers to all.
        """
        if not hosts and not _is_loopback(address):
            return cls()
        return cls(frozenset(host.lower().rstrip(".") for host in hosts))

    def check(self, headers: Headers) -> None:
        """Refuse a request from a page that has no business here.

        Raises:
            RequestError: With status 403.
        """
        if self.hosts is None:
            return
        given = headers.get("host")
        # A name without a dot is nobody's on the internet: proxies and containers use such names.
        if (
            given is not None
            and not self._knows(host := _host_of(given))
            and not re.fullmatch(r"[\w-]+", host)
        ):
            raise _forbidden("Host", given)
        origin = headers.get("origin")
        if origin is not None and not self._knows(_host_of(origin.partition("://")[2])):
            raise _forbidden("Origin", origin)

    def _knows(self, host: str) -> bool:
        assert self.hosts is not None
        return host in self.hosts or host == "localhost" or host.endswith(".localhost") or _is_loopback(host)


def check_content_type(headers: Headers) -> None:
    """Refuse a body that is not JSON.

    A body without any type is taken, as from `curl --data-binary` with an empty one, but not from a browser.

    Raises:
        RequestError: With status 415.
    """
    given = headers.get("content-type")
    if given is None and "origin" not in headers and "sec-fetch-site" not in headers:
        return
    kind, _, parameters = (given or "").partition(";")
    charset = re.search(r"charset=\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if kind.strip().lower() == "application/json" and (charset is None or charset[1].lower() == "utf-8"):
        return
    raise RequestError(
        f"the request's body has the type {(given or 'none')[:100]!r}",
        hint="send JSON in UTF-8, with the header `Content-Type: application/json`",
        code="unsupported_media_type",
        status=415,
    )


def check_encoding(headers: Headers) -> None:
    """Refuse a compressed body, which would be read as if it were not.

    Raises:
        RequestError: With status 415.
    """
    given = headers.get("content-encoding", "identity")
    if given.strip().lower() not in ("", "identity"):
        raise RequestError(
            f"the request's body has the encoding {given[:100]!r}",
            hint="send it uncompressed",
            code="unsupported_media_type",
            status=415,
        )


def _host_of(authority: str) -> str:
    """The host in `host:port`, in small letters; empty where it has no such form."""
    try:
        host = urllib.parse.urlsplit(f"//{authority}").hostname or ""
    except ValueError:
        return ""
    return "" if "@" in authority or "/" in authority else host.rstrip(".")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _forbidden(header: str, given: str) -> RequestError:
    return RequestError(
        f"this server does not answer to `{header}: {given[:100]}`",
        hint="use the server's address; a name that it is to answer to is given to it with `--allow-host`",
        code="forbidden",
        status=403,
    )
