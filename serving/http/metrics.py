"""Prometheus metrics of a serving node: counters, gauges and latencies."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.contract.promise import Promise
from serving.engine.engine import Engine

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The metrics of one server; each server has its own registry, so that several fit into one process."""

    def __init__(self, engine: Engine, promise: Promise) -> None:
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
        info = Gauge(
            "rung_artifact_info", "What is served", ["artifact", "cell", "release", "runtime", "region"],
            registry=self._table,
        )  # fmt: skip
        info.labels(
            artifact=promise.artifact,
            cell=promise.cell or "",
            release=promise.release or "",
            runtime=promise.runtime,
            region=promise.region or "",
        ).set(1)
        self._table.register(_EngineCollector(engine))

    def text(self) -> bytes:
        """All metrics now."""
        return generate_latest(self._table)


class _EngineCollector(Collector):
    """Reads the engine's own counters when they are asked for, at no cost per token."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        yield GaugeMetricFamily("rung_sequences_running", "Sequences in the cache", value=stats.running)
        yield GaugeMetricFamily("rung_sequences_waiting", "Sequences in the queue", value=stats.waiting)
        yield GaugeMetricFamily(
            "rung_slots", "Sequences that can run together", value=self._engine.limits.slots
        )
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
