"""Middleware: size limits, tier headers, counters and error answers for every request, whatever its route.

Bodies have a limit, every answer carries the tier headers, everything is counted, and an error that nobody
expected becomes an OpenAI-style answer and a line in the log.
"""

from __future__ import annotations

import json
import logging
import time

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.contract.problems import RequestError, openai_form, status_of
from serving.contract.promise import Promise
from serving.contract.terms import Agreement, headers, plain_agreement
from serving.http.metrics import Metrics

LOG = logging.getLogger("rung.serving")


class Edge:
    """ASGI middleware around the routes."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics, promise: Promise, max_body_bytes: int) -> None:
        self._app = app
        self._metrics = metrics
        self._promise = promise
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        scope.setdefault("state", {})
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                sent = MutableHeaders(scope=message)
                own = headers(self._promise, plain_agreement(self._promise, task=scope["state"].get("task")))
                for name, value in own.items():
                    sent.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, self._limited(receive), sending)
        except Exception as error:
            if not isinstance(error, RequestError):
                LOG.exception("%s %s failed", scope["method"], scope["path"])
            if status:
                raise
            await _send_error(sending, error)
        finally:
            self._count(scope, status=status, seconds=time.perf_counter() - started)

    def _limited(self, receive: Receive) -> Receive:
        seen = 0

        async def receiving() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_body_bytes:
                raise too_large(self._max_body_bytes)
            return message

        return receiving

    def _count(self, scope: Scope, *, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        agreement: Agreement | None = scope["state"].get("agreement")
        tier = "" if agreement is None else self._tier(agreement)
        self._metrics.requests.labels(
            route=route,
            status=str(status or 499),
            task=(agreement.task if agreement else None) or "",
            tier=tier,
            decision=agreement.outcome if agreement else "none",
        ).inc()
        self._metrics.request_seconds.labels(route=route).observe(seconds)

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
    await send({"type": "http.response.start", "status": status_of(error), "headers": headers})
    await send({"type": "http.response.body", "body": data})
