"""Metrics in the format of Prometheus, in a registry of their own."""

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client import Histogram as Buckets
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from unending.core import Histogram
from unending.engine import Engine

__all__ = ["Metrics"]

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """What the server counts itself, and what it reads from its engines when it is asked."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.registry.register(_Engines(engines))
        own: Any = {"registry": self.registry}
        self.connections = Gauge("unending_connections", "Open connections.", ["kind"], **own)
        self.connected = Counter("unending_connections_opened", "Connections opened.", ["kind"], **own)
        self.bytes = Counter("unending_bytes", "Bytes of bodies and messages.", ["direction"], **own)
        self.requests = Counter("unending_requests", "HTTP requests.", ["route", "method", "status"], **own)
        self.errors = Counter("unending_errors", "Errors told to clients.", ["code"], **own)
        self.first = Buckets(
            "unending_time_to_first_token_seconds", "From a request to the first piece of its answer.",
            ["system"], buckets=_SECONDS, **own,
        )  # fmt: skip
        self.each = Buckets(
            "unending_time_per_output_token_seconds", "Between pieces of an answer, on its average.",
            ["system"], buckets=_SECONDS, **own,
        )  # fmt: skip

    def page(self) -> bytes:
        """What `/metrics` gives."""
        return generate_latest(self.registry)


class _Engines(Collector):
    """Reads the engines at every scrape: they pay nothing in between."""

    def __init__(self, engines: Mapping[str, Engine]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        sessions = GaugeMetricFamily("unending_sessions", "Sessions by status.", labels=["system", "status"])
        gauges = {
            name: GaugeMetricFamily(f"unending_{name}", text, labels=["system"])
            for name, text in _GAUGES.items()
        }
        counters = {
            name: CounterMetricFamily(f"unending_{name}", text, labels=["system"])
            for name, text in _COUNTERS.items()
        }
        steps = HistogramMetricFamily("unending_step_seconds", "Compute time of steps.", labels=["system"])
        latency = HistogramMetricFamily(
            "unending_latency_seconds",
            "From the arrival of an input to the end of its step.",
            labels=["system"],
        )
        for system, engine in self._engines.items():
            totals = engine.totals()
            for status in ("running", "idle", "waiting", "parked", "finished", "failed"):
                sessions.add_metric([system, status], totals.statuses[status])
            for name, gauge in gauges.items():
                gauge.add_metric([system], getattr(totals, name))
            for name, family in counters.items():
                family.add_metric([system], getattr(engine.scheduler.counters, name))
            steps.add_metric([system], *_buckets(engine.scheduler.counters.step))
            latency.add_metric([system], *_buckets(engine.scheduler.counters.latency))
        yield from (sessions, *gauges.values(), *counters.values(), steps, latency)


_GAUGES = {
    "queue_bytes": "Input that waits.",
    "outbox_bytes": "Output that is kept until it is acknowledged.",
    "state_bytes": "States in memory.",
    "lag_max": "Largest lag of a session, in stream time.",
}
_COUNTERS = {
    "opened": "Sessions begun.",
    "restored": "Sessions brought back from the store.",
    "parked": "Sessions put into the store to make room.",
    "deleted": "Sessions dropped for good.",
    "refused": "Requests refused for want of room.",
    "shed": "Inputs dropped because they were late.",
    "late": "Inputs stepped after their deadline.",
    "steps": "Steps.",
    "snapshots": "Snapshots written.",
    "commits": "Commits of the journal.",
    "faults": "Steps and store operations that failed.",
    "violations": "Broken invariants; above 0 there is a defect.",
}


def _buckets(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts at the edges that Prometheus is given, and the sum."""
    # Bucket i of ours ends at 1.1^i microseconds; it goes to the first edge that is not below its middle.
    middles = [1e-6 * 1.1 ** (power - 0.5) for power in range(len(histogram.counts))]
    counted = [(str(edge), float(sum(histogram.counts[: bisect_right(middles, edge)]))) for edge in _SECONDS]
    return [*counted, ("+Inf", float(histogram.total))], histogram.seconds
