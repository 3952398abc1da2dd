"""The OpenAI-compatible server of one loaded artifact at a time: its routes.

`create_app` joins the pieces: terms (what quality the caller asked for), schemas (what the caller asked), the
engine (tokens), completions and chat (OpenAI's forms), the edge (what holds for every request).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException

from registry.errors import RungError
from serving.contract.problems import Json, RequestError, openai_form, retry_after_s, status_of
from serving.contract.terms import headers, read_terms
from serving.engine.sequence import Generation, TextPiece
from serving.engine.stream import Answer
from serving.http.access import Access, check_content_type, check_encoding
from serving.http.connection import ConnectionLimits
from serving.http.current import Current
from serving.http.middleware import LOG, Edge, too_large
from serving.http.reload import Reloads
from serving.http.service import Service
from serving.openai.chat import ChatStream, chat_answer, chat_generations
from serving.openai.completions import CompletionStream, completion_answer, completion_generations
from serving.openai.schemas import Body, ChatBody, CompletionBody, parse_body
from serving.openai.served import ServedModel
from serving.openai.usage import usage

PARSED_AT_ONCE_BYTES = 64 << 10
"""A longer body is parsed beside the event loop."""
WRITTEN_AT_ONCE_TOKENS = 1024
"""An answer with more log-probabilities is written beside the event loop."""
BodyT = TypeVar("BodyT", bound=Body)


def create_app(
    current: Current,
    *,
    reloads: Reloads | None = None,
    access: Access | None = None,
    limits: ConnectionLimits | None = None,
) -> FastAPI:
    """The web application of a service, and of those that come after it.

    Args:
        current: What it answers for.
        reloads: What is told of them.
        access: Hosts and origins that it answers; None: all.
        limits: Of heads, and of requests at once.
    """
    app = FastAPI(title="Rung", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(
        Edge,
        current=current,
        access=access or Access(),
        limits=limits or ConnectionLimits(),
    )
    app.add_exception_handler(RungError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_http_error)
    _add_information(app, reloads)

    @app.post("/v1/completions", openapi_extra=_body_schema(CompletionBody))
    async def complete(request: Request) -> Response:
        """Complete a prompt, as OpenAI's completions do."""
        body = await _read(request, CompletionBody)
        return await _answer(
            request,
            body,
            generations=completion_generations,
            whole=completion_answer,
            stream=CompletionStream,
        )

    @app.post("/v1/chat/completions", openapi_extra=_body_schema(ChatBody))
    async def chat(request: Request) -> Response:
        """Continue a conversation, as OpenAI's chat completions do."""
        body = await _read(request, ChatBody)
        return await _answer(
            request, body, generations=chat_generations, whole=chat_answer, stream=ChatStream
        )

    return app


def _service(request: Request) -> Service:
    """The service that the middleware has given the request to."""
    service: Service = request.state.service
    return service


def _add_information(app: FastAPI, reloads: Reloads | None) -> None:
    @app.get("/v1/models")
    async def models(request: Request) -> Json:
        """List the one model that this node serves, with its artifact, its tiers and its last reload."""
        service = _service(request)
        return {"object": "list", "data": [_model(service, service.promise.models[0], reloads)]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Json:
        """The same for one of its names."""
        service = _service(request)
        service.model.check_model(name)
        return _model(service, name, reloads)

    @app.get("/healthz")
    async def health(request: Request) -> Response:
        """Status 200 while the process answers and its engine runs, else 503: a restart is needed."""
        if _service(request).status == "stopped":
            return JSONResponse({"status": "stopped"}, status_code=503)
        return JSONResponse({"status": "alive"})

    @app.get("/readyz")
    async def ready(request: Request) -> Response:
        """Status 200 if generations are answered and the release has not expired, else 503."""
        status = _service(request).status
        return JSONResponse({"status": status}, status_code=200 if status == "ready" else 503)

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """Metrics in Prometheus' text form."""
        text = _service(request).metrics.text()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _model(service: Service, name: str, reloads: Reloads | None) -> Json:
    promise = service.promise
    last = None if reloads is None else reloads.last
    return {
        "id": name,
        "object": "model",
        "created": service.model.created,
        "owned_by": promise.family,
        "rung": {
            "aliases": list(promise.models),
            "artifact": promise.artifact,
            "checkpoint": promise.checkpoint,
            "recipe": promise.recipe,
            "target": promise.target,
            "licence": promise.licence,
            "release": promise.release,
            "region": promise.region,
            "context": promise.context_tokens,
            "tiers": promise.tiers,
            "reload": None if last is None else last.to_json(),
        },
    }


async def _read(request: Request, body: type[BodyT]) -> BodyT:
    service = _service(request)
    check_content_type(request.headers)
    check_encoding(request.headers)
    limit_bytes = service.model.max_body_bytes
    length = request.headers.get("content-length", "")
    if length.isdigit() and (len(length) > 15 or int(length) > limit_bytes):
        raise too_large(limit_bytes)
    data = await request.body()
    if len(data) <= PARSED_AT_ONCE_BYTES:
        return parse_body(data, body)
    return await service.model.intake.apart(partial(parse_body, data, body))


async def _answer(
    request: Request,
    body: BodyT,
    *,
    generations: Callable[[ServedModel, BodyT], Awaitable[list[Generation]]],
    whole: Callable[..., Json],  # …: its keywords are named at the call
    stream: Callable[[ServedModel, BodyT], CompletionStream | ChatStream],
) -> Response:
    """Answer one request of either form."""
    service = _service(request)
    started = time.perf_counter()
    terms = read_terms(request.headers, tasks=service.promise.tasks)
    request.state.task = terms.task
    service.model.check_model(body.model)
    agreement = service.agree(terms)
    request.state.agreement = agreement
    given = dict(headers(service.promise, agreement))
    asked = await generations(service.model, body)
    wait_s = service.max_wait_s if terms.on_unavailable == "wait" else 0.0
    answer = await _unless_gone(request, Answer.start(service.engine, asked, wait_s=wait_s))
    if body.stream:
        events = _stream(
            service, body, answer=answer, generations=asked, form=stream(service.model, body), started=started
        )
        return StreamingResponse(events, media_type="text/event-stream", headers=given)
    try:
        pieces = await _unless_gone(request, answer.whole())
    finally:
        answer.cancel()
    _count_tokens(service, usage(asked, pieces, n=body.n))
    write = partial(_written, whole, service.model, body, generations=asked, pieces=pieces)
    scores = sum(len(piece.logprobs) + len(piece.prompt_logprobs) for piece in pieces)
    many = scores * (1 + (asked[0].top_logprobs or 0)) > WRITTEN_AT_ONCE_TOKENS
    content = await service.model.intake.apart(write) if many else write()
    return Response(content, headers=given, media_type="application/json")


def _written(whole: Callable[..., Json], *given: object, **named: object) -> bytes:
    """The JSON of an answer."""
    return json.dumps(whole(*given, **named), ensure_ascii=False, separators=(",", ":")).encode()


async def _stream(
    service: Service,
    body: Body,
    *,
    answer: Answer,
    generations: list[Generation],
    form: CompletionStream | ChatStream,
    started: float,
) -> AsyncIterator[bytes]:
    """Server-sent events; an error in their midst is the last one."""
    ended: dict[int, TextPiece] = {}
    opened: set[int] = set()
    try:
        async with aclosing(answer.parts()) as parts:
            async for part in parts:
                chunks: list[Json] = []
                if not opened:
                    service.metrics.first_token_seconds.observe(time.perf_counter() - started)
                if part.place not in opened:
                    opened.add(part.place)
                    chunks += form.opening(part.place)
                chunks += form.chunk(part.place, part.piece)
                if part.piece.finish is not None:
                    ended[part.place] = part.piece
                yield b"".join(_event(chunk) for chunk in chunks)
        total = usage(generations, [ended[place] for place in sorted(ended)], n=body.n)
        _count_tokens(service, total)
        if body.include_usage:
            yield _event(form.closing(total))
        yield b"data: [DONE]\n\n"
    except Exception as error:  # noqa: BLE001  the status is sent already: an event is all that is left to say it
        if not isinstance(error, RungError):
            LOG.exception("a stream failed")
        yield _event(openai_form(error))
    finally:
        answer.cancel()


Result = TypeVar("Result")


async def _unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`, which is cancelled when the caller hangs up."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise RequestError("the caller has hung up", hint="keep the connection open", status=499)
    finally:
        for one in (task, gone):
            one.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await one


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _count_tokens(service: Service, total: Json) -> None:
    service.metrics.tokens.labels(kind="prompt").inc(total["prompt_tokens"])
    service.metrics.tokens.labels(kind="completion").inc(total["completion_tokens"])


def _event(chunk: Json) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def _body_schema(body: type[Body]) -> dict[str, Any]:  # Any: an OpenAPI document
    schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


async def _answer_error(_: Request, error: Exception) -> Response:
    if status_of(error) == 500:
        LOG.error("%s", error, exc_info=error)
    seconds = retry_after_s(error)
    headers: Mapping[str, str] = {} if seconds is None else {"Retry-After": str(seconds)}
    return JSONResponse(openai_form(error), status_code=status_of(error), headers=dict(headers))


async def _answer_http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    detail = error.detail if isinstance(error, HTTPException) else "internal error"
    problem = RequestError(
        f"{request.method} {request.url.path}: {detail.lower()}",
        hint="see `GET /openapi.json` for the routes of this server",
        code={404: "not_found", 405: "method_not_allowed"}.get(status),
        status=status,
    )
    headers = error.headers if isinstance(error, HTTPException) else None
    return JSONResponse(openai_form(problem), status_code=status, headers=headers)
