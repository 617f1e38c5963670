"""What /metrics tells, in the words of Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
Value = tuple[str, str, dict[str, str], float]
"""Name, meaning, labels, value."""


class Metrics:
    """Counters that grow as things happen, and gauges that are read when somebody asks."""

    def __init__(self, read: Callable[[], Iterable[Value]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "goodparts_request_seconds",
            "Time of a request, from its first byte to its answer",
            ("route", "method", "status"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stages = Histogram(
            "goodparts_inspection_seconds",
            "Time of an inspection, by stage: decode, wait, inference, record, all",
            ("model", "stage"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.verdicts = Counter(
            "goodparts_verdicts", "Inspections by verdict", ("model", "verdict"), registry=self.registry
        )
        self.refused = Counter(
            "goodparts_refused",
            "Requests that were not begun, by reason",
            ("reason",),
            registry=self.registry,
        )
        self.drift_events = Counter(
            "goodparts_drift_events",
            "Changes that were noticed",
            ("model", "quantity"),
            registry=self.registry,
        )
        self.model_files_refused = Counter(
            "goodparts_model_files_refused",
            "Files that could not take a model's place",
            ("model",),
            registry=self.registry,
        )
        self.last_inspection = Gauge(
            "goodparts_last_inspection_timestamp_seconds",
            "When the last part was inspected",
            ("model",),
            registry=self.registry,
        )
        self.registry.register(_Gauges(read))

    def text(self) -> bytes:
        """The page."""
        return generate_latest(self.registry)


class _Gauges:
    """What is read when somebody asks."""

    def __init__(self, read: Callable[[], Iterable[Value]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, about, labels, value in self._read():
            if name not in families:
                families[name] = GaugeMetricFamily(name, about, labels=list(labels))
            families[name].add_metric(list(labels.values()), value)
        return families.values()

    def describe(self) -> Iterable[Metric]:
        return ()
