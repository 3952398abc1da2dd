"""Middleware: size limits, tier headers, counters and error answers for every request, whatever its route.

Heads and bodies have limits, foreign hosts and origins are refused, every answer carries the tier headers,
everything is counted, and an error that nobody expected becomes an OpenAI-style answer and a line in the log.
A caller who hangs up is neither.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.errors import RungError
from serving.contract.problems import OverloadedError, RequestError, openai_form, retry_after_s, status_of
from serving.contract.terms import Agreement, plain_headers
from serving.http.access import Access
from serving.http.connection import ConnectionLimits
from serving.http.current import Current
from serving.http.metrics import Metrics
from serving.http.service import Service

LOG = logging.getLogger("rung.serving")


HELD_BYTES = 64 << 20
"""Of the bodies of all requests together."""


@dataclass(slots=True)
class _Held:
    """What a request has sent so far."""

    size_bytes: int = 0


class Edge:
    """ASGI middleware around the routes."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        current: Current,
        access: Access,
        limits: ConnectionLimits,
    ) -> None:
        self._app = app
        self._current = current
        self._access = access
        self._limits = limits
        self._posted = 0
        """Requests with a body that are being answered."""
        self._held_bytes = 0
        """Of the bodies of all of them."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with self._current.request() as service:
            scope.setdefault("state", {})["service"] = service
            await self._answer(service, scope, receive, send)

    async def _answer(self, service: Service, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                own = plain_headers(service.promise, task=scope["state"].get("task"))
                for name, value in own.items():
                    sent.setdefault(name, value)
            await send(message)

        posts = scope["method"] == "POST"
        self._posted += posts
        held = _Held()
        try:
            self._check(scope)
            limited = self._limited(receive, held, most_bytes=service.model.max_body_bytes)
            await self._app(scope, limited, sending)
        except ClientDisconnect:
            LOG.debug("the caller of %s has hung up", scope["path"])
        except Exception as error:
            if not isinstance(error, RungError):
                LOG.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise
            await _send_error(sending, error)
        finally:
            self._posted -= posts
            self._held_bytes -= held.size_bytes
            self._count(service.metrics, scope, status=status, seconds=time.perf_counter() - started)

    def _check(self, scope: Scope) -> None:
        headers = scope["headers"]
        size = len(scope["raw_path"]) + sum(len(name) + len(value) for name, value in headers)
        if len(headers) > self._limits.headers or size > self._limits.head_bytes:
            raise RequestError(
                f"the request has {len(headers)} headers of {size} bytes in all",
                hint=f"send at most {self._limits.headers}, of {self._limits.head_bytes} bytes",
                code="headers_too_large",
                status=431,
            )
        if scope["http_version"] not in ("1.0", "1.1"):
            raise RequestError(
                f"HTTP/{scope['http_version']} is not spoken here", hint="speak HTTP/1.1", status=505
            )
        given = Headers(raw=headers)
        if "content-length" in given and "transfer-encoding" in given:  # RFC 9112, section 6.3: smuggling
            raise RequestError(
                "the request has both `Content-Length` and `Transfer-Encoding`", hint="send one of them"
            )
        self._access.check(given)
        most = self._limits.connections // 2
        if self._posted > most:
            raise OverloadedError.of(waiting=self._posted, limit=most)

    def _limited(self, receive: Receive, held: _Held, *, most_bytes: int) -> Receive:
        async def receiving() -> Message:
            message = await receive()
            size = len(message.get("body", b""))
            held.size_bytes += size
            self._held_bytes += size
            if held.size_bytes > most_bytes:
                raise too_large(most_bytes)
            if self._held_bytes > max(HELD_BYTES, most_bytes):
                raise OverloadedError(
                    f"the bodies of running requests have more than {HELD_BYTES >> 20} MiB",
                    hint="ask again later",
                )
            return message

        return receiving

    def _count(self, metrics: Metrics, scope: Scope, *, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        agreement: Agreement | None = scope["state"].get("agreement")
        tier = "" if agreement is None else self._tier(agreement)
        metrics.requests.labels(
            route=route,
            status=str(status or 499),
            task=(agreement.task if agreement else None) or "",
            tier=tier,
            decision=agreement.outcome if agreement else "none",
        ).inc()
        metrics.request_seconds.labels(route=route).observe(seconds)

    @staticmethod
    def _tier(agreement: Agreement) -> str:
        return "none" if agreement.tier is None else str(agreement.tier)


def too_large(limit_bytes: int) -> RequestError:
    """The error of a body above the limit."""
    return RequestError(
        f"the request's body has more than {limit_bytes} bytes",
        hint="send less at once",
        code="request_too_large",
        status=413,
    )


async def _send_error(send: Send, error: Exception) -> None:
    data = json.dumps(openai_form(error)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode())]
    if (seconds := retry_after_s(error)) is not None:
        headers.append((b"retry-after", str(seconds).encode()))
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": data})
