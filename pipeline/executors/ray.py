"""The Ray executor: the same graph, its work spread over the nodes of a Ray cluster.

Each piece of work runs on its node exactly as the local executor runs it: in a separate process, with a
time limit, a memory limit and a log. What a node can do it says by custom resources when it joins:

    ray start --address HEAD --resources '{"rung-tvm": 4, "rung-qnn": 1}'

A lowering goes to a node with `rung-TOOLCHAIN`. Everything else yields evidence of a chip, so it stays on
the build's own node, or goes to nodes that say `rung-host`: those have the same processor, which the worker
checks.
All nodes must see the workspace's store under one path, and have the same version of Rung.
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.executors.interface import Failure, Finished, Work
from pipeline.executors.local import WORKER, LocalExecutor
from pipeline.stages.events import Event
from pipeline.stages.lower import LowerRequest
from registry.errors import ConfigurationError, ToolchainMissingError
from registry.store import Store
from serving.node.host import this_host

if TYPE_CHECKING:
    from types import ModuleType

Untyped = Any
"""Handles of Ray, whose remote functions have no static types."""
KNOCK_S = 5.0
SHARE = 0.01
"""Of a node's custom resource that one piece of work takes: the resource says what, not how many."""


@dataclass(frozen=True, slots=True)
class _NodeSettings:
    """Where and within what a node works."""

    store: Path
    scratch: Path
    threads: int
    memory_bytes: int | None
    chip: str
    command: tuple[str, ...]


class RayExecutor:
    """Runs work on a Ray cluster.

    Args:
        store: The store, under a path that all nodes see.
        scratch: Directory for scratch directories, likewise.
        address: Of the cluster, as `ray.init` takes it; None: `RAY_ADDRESS`, or the one on this machine.
        threads: Threads of each worker.
        memory_bytes: What one worker may hold.
        dirty_marker: A file to make before the first worker starts.
        command: The worker's command line on each node, as for `LocalExecutor`.

    Raises:
        ConfigurationError: There is no such cluster.
        ToolchainMissingError: `ray` is not installed.
    """

    def __init__(
        self,
        store: Store,
        *,
        scratch: Path,
        address: str | None = None,
        threads: int = 1,
        memory_bytes: int | None = None,
        dirty_marker: Path | None = None,
        command: tuple[str, ...] = WORKER,
    ) -> None:
        self._ray = _connected(address)
        self._command = command
        self._store = store
        self._scratch = scratch
        self._threads = threads
        self._memory_bytes = memory_bytes
        self._chip = this_host().chip
        self._dirty_marker = dirty_marker
        self._running: set[Untyped] = set()
        self._lock = threading.Lock()

    @property
    def jobs(self) -> int:
        """Pieces of work that the cluster can run at the same time."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)) // self._threads)

    @property
    def cluster_memory_bytes(self) -> int:
        """Memory of all nodes, as Ray plans with it."""
        return int(self._ray.cluster_resources().get("memory", 0))

    def toolchain_version(self, name: str) -> str:
        """The version of a toolchain on a node that offers it.

        Raises:
            ToolchainMissingError: No node offers it, or it is not installed there.
        """
        needed = f"rung-{name}"
        if needed not in self._ray.cluster_resources():
            raise ToolchainMissingError(
                f"no node of the Ray cluster offers `{needed}`",
                hint=f"install the toolchain on a node and join it with --resources '{{\"{needed}\": 1}}'",
            )
        ask = self._ray.remote(_version).options(num_cpus=0, resources={needed: SHARE})
        version, message, hint = self._ray.get(ask.remote(name))
        if version is None:
            raise ToolchainMissingError(f"on the node that offers `{needed}`: {message}", hint=hint)
        return str(version)

    def run(self, work: Work, *, on_event: Callable[[Event], None]) -> Finished | Failure:
        """Run one piece of work to its end; called from several threads at once."""
        if self._dirty_marker is not None:
            self._dirty_marker.touch()
        task = self._ray.remote(_run).options(
            num_returns="streaming",
            num_cpus=self._threads,
            memory=self._reservation(work),
            max_retries=0,
            **self._placement(work),
        )
        settings = _NodeSettings(
            store=self._store.root,
            scratch=self._scratch,
            threads=self._threads,
            memory_bytes=self._memory_bytes,
            chip=self._chip,
            command=self._command,
        )
        stream = task.remote(work, settings)
        with self._lock:
            self._running.add(stream)
        try:
            return self._follow(stream, on_event)
        except self._ray.exceptions.RayError as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            return Failure(
                "crash", f"{work.label}: lost on its Ray node: {reason}", "see `ray status`; build again", 4
            )
        finally:
            with self._lock:
                self._running.discard(stream)

    def stop(self) -> None:
        """Kill all running work."""
        with self._lock:
            for stream in self._running:
                self._ray.cancel(stream, force=True)

    def _follow(self, stream: Untyped, on_event: Callable[[Event], None]) -> Finished | Failure:
        for reference in stream:
            said: Event | Finished | Failure = self._ray.get(reference)
            if isinstance(said, Finished | Failure):
                return said
            on_event(said)
        raise self._ray.exceptions.RayError("it ended without a result")

    def _placement(self, work: Work) -> dict[str, Untyped]:
        if isinstance(work.request, LowerRequest):
            return {"resources": {f"rung-{work.request.toolchain}": SHARE}}
        if "rung-host" in self._ray.cluster_resources():
            return {"resources": {"rung-host": SHARE}}
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = self._ray.get_runtime_context().get_node_id()
        return {"scheduling_strategy": NodeAffinitySchedulingStrategy(here, soft=False)}

    def _reservation(self, work: Work) -> int:
        """What Ray sets aside; never more than the largest node has, or the work would wait for ever."""
        nodes = [node["Resources"].get("memory", 0) for node in self._ray.nodes() if node["Alive"]]
        return int(min(work.memory_bytes, 0.9 * max(nodes, default=0)))


def _connected(address: str | None) -> ModuleType:
    try:
        import ray
    except ImportError as error:
        raise ToolchainMissingError("`ray` is not installed", hint="install `rung[ray]`") from error
    if not ray.is_initialized():
        wanted = address or os.environ.get("RAY_ADDRESS") or "auto"
        try:
            _knock(wanted)
            ray.init(address=wanted, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise ConfigurationError(
                f"no Ray cluster at `{wanted}`: {error}",
                hint="start one with `ray start --head`, or give its address with RAY_ADDRESS",
            ) from error
    module: ModuleType = ray
    return module


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and "//" not in address and port.isdigit():
        socket.create_connection((host, int(port)), timeout=KNOCK_S).close()


def _version(name: str) -> tuple[str | None, str, str]:
    """On the node: version of a toolchain, or why it cannot be used."""
    from compilers.backend import find_toolchain

    try:
        return find_toolchain(name).version(), "", ""
    except ToolchainMissingError as error:
        return None, error.message, error.hint


def _run(work: Work, settings: _NodeSettings) -> Iterator[Event | Finished | Failure]:
    """On the node: the local executor's events, then its result."""
    if not (settings.store / "oci-layout").is_file():
        message = f"{work.label}: the node does not see the store at `{settings.store}`"
        failure = Failure("registry", message, "share it with all nodes under the same path", 3)
        yield failure
        return
    events: queue.SimpleQueue[Event | Finished | Failure] = queue.SimpleQueue()
    executor = LocalExecutor(
        Store(settings.store),
        scratch=settings.scratch,
        threads=settings.threads,
        memory_bytes=settings.memory_bytes,
        chip=settings.chip,
        command=settings.command,
    )

    def run() -> None:
        try:
            result: Finished | Failure = executor.run(work, on_event=events.put)
        except Exception as error:  # noqa: BLE001  # the edge where a stage becomes a cell
            result = Failure("crash", f"{work.label}: {error!r}", "see the node's Ray log", 4)
        events.put(result)

    threading.Thread(target=run, daemon=True).start()
    while True:
        said = events.get()
        yield said
        if isinstance(said, Finished | Failure):
            return
