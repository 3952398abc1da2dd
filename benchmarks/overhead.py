"""Overhead of `rung serve`'s server over the bare session, in time per token.

The difference is what HTTP, scheduling and sampling cost. The same prompts and lengths go through both, in
turn: a bare session that continues all sequences together, and the server with as many callers at once. No
prompt comes twice, so that the server's prefix reuse does not help.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Literal
from urllib.parse import urlsplit

from benchmarks.checkpoint import BenchmarkShape, prompt_tokens
from benchmarks.child import ROOT, child_environment
from benchmarks.engines.interface import EngineSpec
from benchmarks.turn import AskBatch, TurnMemory, process_memory
from benchmarks.worker import TIME_LIMIT_S, Worker
from registry.errors import EvaluationError
from registry.value import Value

Mode = Literal["whole", "stream"]
MODES: tuple[Mode, ...] = ("whole", "stream")
START_LIMIT_S = 120.0


class OverheadLoad(Value):
    """The load that is sent."""

    shape: BenchmarkShape
    prompt_tokens: int = 32
    tokens: int = 48
    """Generated for each caller."""
    callers: tuple[int, ...] = (1, 8)
    rounds: int = 5


class Overhead(Value):
    """One number of callers and one way of answering."""

    engine: str
    threads: int
    callers: int
    mode: Mode
    bare_ms_per_token: float
    """Wall time of the bare session over all tokens that it generated, prompts included; median of rounds."""
    served_ms_per_token: float
    """The same through the server."""
    overhead_ms_per_token: float
    """Median of the differences round by round."""
    overhead_share: float
    """Median of overhead over bare."""
    same_tokens: bool
    """Whether server and session gave the same text for every prompt."""


class Served(Value):
    """Result of measuring the server."""

    rows: tuple[Overhead, ...] = ()
    memory: TurnMemory | None = None
    """Of the server's process at the end."""
    error: str | None = None


def measure_overhead(spec: EngineSpec, load: OverheadLoad, *, threads: int) -> Served:
    """The server's overhead over the bare session; a failure is a value with its error."""
    most = max(load.callers)
    context = load.prompt_tokens + load.tokens + 1
    try:
        with (
            Worker(spec, threads=threads, capacity=context) as bare,
            _server(spec, threads=threads, slots=most, context=context) as server,
            ThreadPoolExecutor(max_workers=most) as callers,
        ):
            rows: list[Overhead] = []
            for count in load.callers:
                for mode in MODES:
                    rows.append(
                        _measure(bare, server, callers, load=load, count=count, mode=mode, threads=threads)
                    )
            return Served(rows=tuple(rows), memory=process_memory(server.process_id))
    except EvaluationError as error:
        return Served(error=error.message)


@dataclass(frozen=True, slots=True)
class _Server:
    host: str
    port: int
    model: str
    process_id: int


def _measure(
    bare: Worker,
    server: _Server,
    callers: ThreadPoolExecutor,
    *,
    load: OverheadLoad,
    count: int,
    mode: Mode,
    threads: int,
) -> Overhead:
    pairs: list[tuple[float, float]] = []
    same = True
    for index in range(load.rounds + 1):
        print(f"server, {count} caller(s), {mode}: round {index}", file=sys.stderr, flush=True)
        prompts = _prompts(load, count=count, mode=mode, index=index)
        alone = bare.batch(AskBatch(prompts=prompts, tokens=load.tokens))
        began = time.perf_counter()
        waiting = [callers.submit(_complete, server, p, tokens=load.tokens, mode=mode) for p in prompts]
        texts = [answer.result() for answer in waiting]
        pairs.append((time.perf_counter() - began, alone.wall_s))
        same &= [text.split() for text in texts] == [[f"w{t}" for t in tokens] for tokens in alone.tokens]
    del pairs[0]  # warm-up
    per_token = 1e3 / (count * load.tokens)
    return Overhead(
        engine=bare.spec.name,
        threads=threads,
        callers=count,
        mode=mode,
        bare_ms_per_token=per_token * statistics.median(alone for _, alone in pairs),
        served_ms_per_token=per_token * statistics.median(ours for ours, _ in pairs),
        overhead_ms_per_token=per_token * statistics.median(ours - alone for ours, alone in pairs),
        overhead_share=statistics.median(ours / alone - 1 for ours, alone in pairs),
        same_tokens=same,
    )


def _prompts(load: OverheadLoad, *, count: int, mode: Mode, index: int) -> tuple[tuple[int, ...], ...]:
    first = 1 + 100_000 * count + 10_000 * MODES.index(mode) + 100 * index
    seeds = range(first, first + count)
    return tuple(tuple(prompt_tokens(load.shape, count=load.prompt_tokens, seed=seed)) for seed in seeds)


def _complete(server: _Server, prompt: tuple[int, ...], *, tokens: int, mode: Mode) -> str:
    """The text of one greedy completion."""
    stream = mode == "stream"
    body = {
        "model": server.model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": stream,
    }
    connection = http.client.HTTPConnection(server.host, server.port, timeout=TIME_LIMIT_S)
    try:
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise EvaluationError(
                f"the server answered {answer.status}: {answer.read()[:300]!r}", hint="see its log"
            )
        if not stream:
            return str(json.loads(answer.read())["choices"][0]["text"])
        return "".join(_chunks(answer))
    except OSError as error:
        raise EvaluationError(f"the server does not answer: {error}", hint="run it alone") from error
    finally:
        connection.close()


def _chunks(answer: http.client.HTTPResponse) -> Iterator[str]:
    for line in answer:
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield from (str(choice["text"]) for choice in json.loads(line[6:])["choices"])


@contextlib.contextmanager
def _server(spec: EngineSpec, *, threads: int, slots: int, context: int) -> Iterator[_Server]:
    """A ready server process, stopped on exit."""
    with tempfile.TemporaryFile() as log:
        command = [
            sys.executable,
            "-m",
            "benchmarks.server",
            str(spec.path),
            *map(str, (threads, slots, context)),
        ]
        process = subprocess.Popen(
            command, cwd=ROOT, env=child_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            url = urlsplit(_wait_ready(process, log))
            host, port = str(url.hostname), int(url.port or 0)
            yield _Server(host=host, port=port, model=_model(host, port), process_id=process.pid)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: subprocess.Popen[bytes], log: IO[bytes]) -> str:
    """The base URL, from the line that the server prints once it answers."""
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        ended = process.poll() is not None
        log.seek(0)
        text = log.read().decode(errors="replace")
        for line in text.splitlines():
            if line.startswith("ready: "):
                return line.removeprefix("ready: ")
        if ended or time.monotonic() > deadline:
            last = " / ".join(text.strip().splitlines()[-3:])
            raise EvaluationError(
                f"the server did not start: {last}", hint="run `python -m benchmarks.server` alone"
            )
        time.sleep(0.1)


def _model(host: str, port: int) -> str:
    connection = http.client.HTTPConnection(host, port, timeout=30)
    connection.request("GET", "/v1/models")
    listed = json.loads(connection.getresponse().read())
    connection.close()
    return str(listed["data"][0]["id"])
