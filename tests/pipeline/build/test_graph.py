"""The build graph: order, admission, failures."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.build.graph import BuildNode, run_graph
from pipeline.executors.interface import Failure, Finished, Work
from pipeline.stages.events import Event, ProgressEvent

FAILED = Failure("build", "it broke", "mend it", 4)


@dataclass
class Threads:
    """An executor that runs functions; counts what runs at the same time."""

    act: Callable[[str], Finished | Failure] = lambda label: Finished()
    running: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0
    peak_count: int = 0
    stopped: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def run(self, work: Work, *, on_event: Callable[[Event], None]) -> Finished | Failure:
        with self.lock:
            self.running[work.label] = work.memory_bytes
            self.peak_bytes = max(self.peak_bytes, sum(self.running.values()))
            self.peak_count = max(self.peak_count, len(self.running))
        on_event(ProgressEvent(text=work.label))
        time.sleep(0.002)
        try:
            return self.act(work.label)
        finally:
            with self.lock:
                del self.running[work.label]

    def stop(self) -> None:
        self.stopped = True


@dataclass
class Log:
    """An observer that remembers."""

    started_names: list[str] = field(default_factory=list)
    ended_names: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def started(self, node: BuildNode) -> None:
        self.started_names.append(node.name)

    def event(self, node: BuildNode, event: Event) -> None:
        assert isinstance(event, ProgressEvent)
        self.events.append(event.text)

    def ended(self, node: BuildNode, failure: Failure | None, *, ran: bool) -> None:
        self.ended_names.append(node.name)


def work(name: str, memory: int = 1) -> Work:
    return Work(name, cast("Any", None), memory, 10.0)


def node(name: str, *needs: str, memory: int = 1, done: bool = False) -> BuildNode:
    return BuildNode(name, needs, lambda: None if done else work(name, memory))


def test_a_node_runs_after_all_that_it_needs() -> None:
    log = Log()
    nodes = [node("c", "a", "b"), node("a"), node("b", "a")]
    assert run_graph(nodes, executor=Threads(), observer=log, jobs=2, memory_bytes=10) == {}
    assert log.ended_names == ["a", "b", "c"]
    assert sorted(log.events) == ["a", "b", "c"]


def test_a_failure_blocks_only_what_needs_it() -> None:
    executor = Threads(act=lambda label: FAILED if label == "a" else Finished())
    log = Log()
    failures = run_graph(
        [node("a"), node("b", "a"), node("c", "b"), node("d")],
        executor=executor,
        observer=log,
        jobs=2,
        memory_bytes=9,
    )
    assert failures == {"a": FAILED, "b": FAILED, "c": FAILED}
    assert "d" in log.started_names
    assert "b" not in log.started_names


def test_what_is_recorded_already_is_not_run() -> None:
    log = Log()
    run_graph(
        [node("a", done=True), node("b", "a")], executor=Threads(), observer=log, jobs=1, memory_bytes=9
    )
    assert log.started_names == ["b"]


def test_larger_work_than_the_budget_runs_alone() -> None:
    executor = Threads()
    nodes = [node("huge", memory=100)] + [node(f"small{i}", memory=1) for i in range(5)]
    run_graph(nodes, executor=executor, observer=Log(), jobs=4, memory_bytes=10)
    assert executor.peak_bytes == 100


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 10), min_size=1, max_size=12), st.integers(1, 4), st.integers(10, 20))
def test_the_budget_and_the_number_of_jobs_hold(sizes: list[int], jobs: int, budget: int) -> None:
    executor, log = Threads(), Log()
    nodes = [node(str(i), memory=size) for i, size in enumerate(sizes)]
    run_graph(nodes, executor=executor, observer=log, jobs=jobs, memory_bytes=budget)
    assert executor.peak_bytes <= budget
    assert executor.peak_count <= jobs
    assert len(log.ended_names) == len(sizes)


def test_an_error_of_the_observer_stops_the_executor_and_is_raised() -> None:
    class Full(Log):
        def event(self, node: BuildNode, event: Event) -> None:
            raise OSError("no space")

    executor = Threads()
    with pytest.raises(OSError, match="no space"):
        run_graph([node("a"), node("b")], executor=executor, observer=Full(), jobs=1, memory_bytes=9)
    assert executor.stopped


def test_a_failure_that_does_not_block_is_reported_and_what_needs_it_runs() -> None:
    log = Log()
    failures = run_graph(
        [BuildNode("a", (), lambda: FAILED, blocks=False), node("b", "a")],
        executor=Threads(),
        observer=log,
        jobs=1,
        memory_bytes=9,
    )
    assert failures == {"a": FAILED}
    assert log.started_names == ["b"]
