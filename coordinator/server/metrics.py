"""Metrics for Prometheus, with vLLM's names behind a prefix of our own, and the time that each rank spent."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tplaunch.coordinator.serving.driver import Driver
from tplaunch.coordinator.serving.stats import Stats

PREFIX = "tplaunch:"
MODEL = "model_name"  # a label of each
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
BETWEEN_TOKENS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.4,
    0.5,
    0.75,
    1,
    2.5,
    5,
    10,
)
WHOLE = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)

# Name, help, and the value of a snapshot.
Row = tuple[str, str, Callable[[Stats], float]]
GAUGES: tuple[Row, ...] = (
    ("num_requests_running", "Requests that are computed.", lambda stats: stats.num_running),
    ("num_requests_waiting", "Requests that wait for a seat.", lambda stats: stats.num_waiting),
    ("kv_cache_usage_perc", "Share of the KV cache that texts hold, 0 to 1.", lambda stats: stats.kv_usage),
)
COUNTERS: tuple[Row, ...] = (
    ("prefix_cache_queries", "Tokens looked up in the cache.", lambda stats: stats.cache_tokens_queried),
    ("prefix_cache_hits", "Tokens found there.", lambda stats: stats.cache_tokens_hit),
    ("num_preemptions", "Texts that gave their memory back, to be computed again.",
     lambda stats: stats.num_preemptions),
    ("prompt_tokens", "Tokens of prompts that were computed.", lambda stats: stats.num_prompt_tokens),
    ("generation_tokens", "Tokens that were generated.", lambda stats: stats.num_generated_tokens),
    ("steps", "Steps that all ranks made.", lambda stats: stats.num_steps),
    ("step_seconds", "The time of all steps.", lambda stats: stats.step_seconds),
    ("restarts", "How often ranks were started again.", lambda stats: stats.num_restarts),
)  # fmt: skip


class Metrics:
    """The metrics of one model. It is a Clock of answers; `text` may be called from any thread."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_FromDriver(driver, name))
        self._first = self._histogram("time_to_first_token_seconds", "Until the first token.", FIRST_TOKEN)
        self._between = self._histogram("inter_token_latency_seconds", "Between two tokens.", BETWEEN_TOKENS)
        self._whole = self._histogram("e2e_request_latency_seconds", "Of a whole request.", WHOLE)
        self._first_of, self._between_of = self._first.labels(name), self._between.labels(name)
        self._whole_of = self._whole.labels(name)
        self._successes = Counter(
            f"{PREFIX}request_success",
            "Texts that have ended, by how.",
            (MODEL, "finished_reason"),
            registry=self._registry,
        )
        self._name = name

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"{PREFIX}{name}", text, (MODEL,), buckets=buckets, registry=self._registry)

    def text(self) -> bytes:
        """Returns all metrics in Prometheus' text form."""
        return generate_latest(self._registry)

    def first(self, seconds: float) -> None:
        self._first_of.observe(seconds)

    def between(self, seconds: float, count: int) -> None:
        for _ in range(count):
            self._between_of.observe(seconds)

    def ended(self, seconds: float, reasons: list[str]) -> None:
        self._whole_of.observe(seconds)
        for reason in reasons:
            self._successes.labels(self._name, reason).inc()


class _FromDriver(Collector):
    """Reads what the driver keeps, when it is asked for."""

    def __init__(self, driver: Driver, name: str) -> None:
        self._driver, self._name = driver, name

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        stats = self._driver.stats()
        for name, text, read in GAUGES:
            gauge = GaugeMetricFamily(f"{PREFIX}{name}", text, labels=[MODEL])
            gauge.add_metric([self._name], read(stats))
            yield gauge
        healthy = GaugeMetricFamily(f"{PREFIX}healthy", "1 while requests are computed.", labels=[MODEL])
        healthy.add_metric([self._name], float(self._driver.health().is_ok))
        yield healthy
        for name, text, read in COUNTERS:
            counter = CounterMetricFamily(f"{PREFIX}{name}", text, labels=[MODEL])
            counter.add_metric([self._name], read(stats))
            yield counter
        ledger = CounterMetricFamily(
            f"{PREFIX}rank_seconds",
            "The time of steps by rank and by what it was spent on; the parts of a rank add up to all of it.",
            labels=[MODEL, "rank", "part"],
        )
        for rank, parts in enumerate(stats.rank_seconds):
            for part, seconds in parts.items():
                ledger.add_metric([self._name, str(rank), part], seconds)
        yield ledger
