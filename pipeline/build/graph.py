"""The build graph: nodes that need other nodes, run as their inputs become known.

A node is prepared only when all that it needs is done, because its key depends on their outputs. Preparing
finds that its stages are recorded already (nothing to run), or returns the work to run. Work is admitted
within a memory budget, largest first; one failed node blocks only those that need it.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from pipeline.executors.interface import Executor, Failure, Finished, Work
from pipeline.stages.events import Event
from registry.errors import ToolchainMissingError


@dataclass(frozen=True, slots=True)
class BuildNode:
    """One node of the graph."""

    name: str
    """Unique, for people: `lower demo-agent-mid/1:fp32:cpu-x86-64-v3:tvm`."""
    needs: tuple[str, ...]
    prepare: Callable[[], Work | Failure | None]
    """The work to run, None if its outputs are there already, or why it cannot be done.

    Called in the caller's thread. A missing toolchain may also be raised: it fails this node alone."""
    on_done: Callable[[Failure | None], None] = lambda failure: None
    """Called once in the caller's thread when the node is done (None) or failed, unless it was blocked."""
    on_blocked: Callable[[Failure], None] = lambda failure: None
    """Called once in its place when a node that it needs failed: it was never prepared."""
    blocks: bool = True
    """Whether its failure blocks the nodes that need it. False: they ask for themselves what is there."""


class Observer(Protocol):
    """Who watches a run: the progress display, and the recorder of outputs."""

    def started(self, node: BuildNode) -> None:
        """Work of a node began."""
        ...

    def event(self, node: BuildNode, event: Event) -> None:
        """A worker sent an event; raised errors end the run."""
        ...

    def ended(self, node: BuildNode, failure: Failure | None, *, ran: bool) -> None:
        """A node is done, failed, or was found done (`ran` False)."""
        ...


@dataclass(slots=True)
class _Running:
    node: BuildNode
    work: Work
    future: Future[Finished | Failure]


def run_graph(
    nodes: Sequence[BuildNode], *, executor: Executor, observer: Observer, jobs: int, memory_bytes: int
) -> Mapping[str, Failure]:
    """Run all nodes; the failures by node name (blocked nodes included).

    Args:
        nodes: In any order; every need names another node.
        executor: What runs work.
        observer: Told of everything, in the caller's thread.
        jobs: Pieces of work at the same time.
        memory_bytes: Sum of estimates at the same time; a piece larger than that runs alone.
    """
    return _Run(executor, observer, jobs=jobs, memory_bytes=memory_bytes).go(nodes)


class _Run:
    def __init__(self, executor: Executor, observer: Observer, *, jobs: int, memory_bytes: int) -> None:
        self._executor = executor
        self._observer = observer
        self._jobs = jobs
        self._memory_bytes = memory_bytes
        self._pool = ThreadPoolExecutor(max_workers=jobs)
        self._events: queue.SimpleQueue[tuple[str, Event | None]] = queue.SimpleQueue()
        self._waiting: dict[str, BuildNode] = {}
        self._ready: list[tuple[BuildNode, Work]] = []
        self._running: dict[str, _Running] = {}
        self._ended: dict[str, Failure | None] = {}
        self._blocking: dict[str, Failure] = {}
        """Those of the failures that block what needs them."""

    def go(self, nodes: Sequence[BuildNode]) -> Mapping[str, Failure]:
        self._waiting = {node.name: node for node in nodes}
        try:
            self._advance()
            while self._running:
                self._take(*self._events.get())
                self._advance()
        except BaseException:
            self._executor.stop()
            raise
        finally:
            self._pool.shutdown(wait=True, cancel_futures=True)
        return {name: failure for name, failure in self._ended.items() if failure is not None}

    def _advance(self) -> None:
        """Prepare what has become possible, and start what fits."""
        while self._prepare_one():
            pass
        self._ready.sort(key=lambda pair: -pair[1].memory_bytes)
        for node, work in list(self._ready):
            used = sum(running.work.memory_bytes for running in self._running.values())
            fits = not self._running or used + work.memory_bytes <= self._memory_bytes
            if len(self._running) < self._jobs and fits:
                self._ready.remove((node, work))
                self._start(node, work)

    def _prepare_one(self) -> bool:
        for node in self._waiting.values():
            if any(need not in self._ended for need in node.needs):
                continue
            del self._waiting[node.name]
            blocking = next((self._blocking[need] for need in node.needs if need in self._blocking), None)
            if blocking is not None:
                node.on_blocked(blocking)
                self._end(node, blocking, ran=False)
            elif isinstance(work := _prepared(node), Work):
                self._ready.append((node, work))
            else:
                node.on_done(work)
                self._end(node, work, ran=False)
            return True
        return False

    def _start(self, node: BuildNode, work: Work) -> None:
        def run() -> Finished | Failure:
            try:
                return self._executor.run(work, on_event=lambda event: self._events.put((node.name, event)))
            finally:
                self._events.put((node.name, None))

        self._running[node.name] = _Running(node, work, self._pool.submit(run))
        self._observer.started(node)

    def _take(self, name: str, event: Event | None) -> None:
        running = self._running[name]
        if event is not None:
            self._observer.event(running.node, event)
            return
        del self._running[name]
        result = running.future.result()
        failure = result if isinstance(result, Failure) else None
        running.node.on_done(failure)
        self._end(running.node, failure, ran=True)

    def _end(self, node: BuildNode, failure: Failure | None, *, ran: bool) -> None:
        self._ended[node.name] = failure
        if failure is not None and node.blocks:
            self._blocking[node.name] = failure
        self._observer.ended(node, failure, ran=ran)


def _prepared(node: BuildNode) -> Work | Failure | None:
    try:
        return node.prepare()
    except ToolchainMissingError as error:
        return Failure(error.code, f"{node.name}: {error.message}", error.hint, error.exit_code)
