"""Prometheus metrics of a serving node: counters, gauges and latencies."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.contract.promise import Promise
from serving.engine.engine import Engine, Stats

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server; each server has its own registry, so that several fit into one process.

    They go on counting when the server changes to another engine.
    """

    def __init__(self) -> None:
        self._table = CollectorRegistry()
        self.requests = Counter(
            "rung_requests",
            "Answered requests",
            ["route", "status", "task", "tier", "decision"],
            registry=self._table,
        )
        self.tokens = Counter("rung_tokens", "Tokens of answered requests", ["kind"], registry=self._table)
        self.request_seconds = Histogram(
            "rung_request_seconds",
            "Time to the whole answer",
            ["route"],
            buckets=SECONDS,
            registry=self._table,
        )
        self.first_token_seconds = Histogram(
            "rung_first_token_seconds",
            "Time to a stream's first token",
            buckets=SECONDS,
            registry=self._table,
        )
        self.reloads = Counter(
            "rung_reloads", "Reloads that were asked for", ["outcome"], registry=self._table
        )
        self._info = Gauge(
            "rung_artifact_info", "What is served", ["artifact", "cell", "release", "runtime", "region"],
            registry=self._table,
        )  # fmt: skip
        self._engines = _EngineCollector()
        self._table.register(self._engines)

    def watch(self, engine: Engine, promise: Promise) -> None:
        """Show this engine and promise from now on."""
        self._info.clear()
        self._info.labels(
            artifact=promise.artifact,
            cell=promise.cell or "",
            release=promise.release or "",
            runtime=promise.runtime,
            region=promise.region or "",
        ).set(1)
        self._engines.add(engine)

    def forget(self, engine: Engine) -> None:
        """Keep the counts of a closed engine, and let go of itself."""
        self._engines.fold(engine)

    def text(self) -> bytes:
        """All metrics now."""
        return generate_latest(self._table)


class _EngineCollector(Collector):
    """Reads the engines' own counters when they are asked for, at no cost per token."""

    def __init__(self) -> None:
        self._engines: tuple[Engine, ...] = ()
        """The last one takes new sequences."""
        self._past = Stats()
        """Of closed engines."""
        self._lock = threading.Lock()

    def add(self, engine: Engine) -> None:
        with self._lock:
            self._engines = (*(one for one in self._engines if one is not engine), engine)

    def fold(self, engine: Engine) -> None:
        with self._lock:
            if engine in self._engines:
                self._engines = tuple(one for one in self._engines if one is not engine)
                self._past += engine.stats()

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            engines = self._engines
            stats = sum((engine.stats() for engine in engines), self._past)
        slots = engines[-1].limits.slots if engines else 0
        yield GaugeMetricFamily("rung_sequences_running", "Sequences in the cache", value=stats.running)
        yield GaugeMetricFamily("rung_sequences_waiting", "Sequences in the queue", value=stats.waiting)
        yield GaugeMetricFamily("rung_slots", "Sequences that can run together", value=slots)
        yield CounterMetricFamily("rung_steps", "Steps of the engine", value=stats.steps)
        yield CounterMetricFamily("rung_forward_seconds", "Time inside the session", value=stats.forward_s)
        yield CounterMetricFamily(
            "rung_busy_seconds", "Time of the engine, session included", value=stats.busy_s
        )
        yield CounterMetricFamily("rung_prompt_tokens_read", "Prompt tokens read", value=stats.prompt_tokens)
        yield CounterMetricFamily(
            "rung_prompt_tokens_reused", "Prompt tokens reused", value=stats.reused_tokens
        )
        ends = CounterMetricFamily("rung_sequences", "Sequences that ended", labels=["how"])
        for how, count in (
            ("finished", stats.finished),
            ("cancelled", stats.cancelled),
            ("failed", stats.failed),
        ):
            ends.add_metric([how], count)
        yield ends
