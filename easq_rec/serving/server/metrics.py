"""What `/metrics` says, in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
CALLS = (1, 2, 4, 8, 16, 32, 64, 128)


class ServerMetrics:
    """The metrics of one process."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self) -> None:
        self._registry = on = CollectorRegistry()
        self._answers = Counter("easq_answers", "Answers of /score by HTTP status.", ["status"], registry=on)
        took = "From the headers of a call to its answer."
        self._latency = Histogram("easq_answer_seconds", took, buckets=SECONDS, registry=on)
        self._calls = Histogram("easq_batch_calls", "Calls that were scored together.", buckets=CALLS, registry=on)
        self._candidates = Counter("easq_candidates", "Candidates that were scored.", registry=on)
        self._scoring = Histogram("easq_batch_seconds", "Time of a batch in the program.", buckets=SECONDS, registry=on)
        self._refused = Counter("easq_packages_refused", "Packages that were not taken.", registry=on)
        self._swaps = Counter("easq_packages_served", "Packages that were taken.", registry=on)
        self._version = Gauge("easq_package", "1 for the version that serves.", ["version"], registry=on)

    def answered(self, status: int, seconds: float) -> None:
        self._answers.labels(str(status)).inc()
        self._latency.observe(seconds)

    def batch(self, calls: int, candidates: int, seconds: float) -> None:
        self._calls.observe(calls)
        self._candidates.inc(candidates)
        self._scoring.observe(seconds)

    def version(self, version: str, *, accepted: bool) -> None:
        """A package was taken, or refused."""
        if not accepted:
            self._refused.inc()
            return
        self._swaps.inc()
        self._version.clear()
        self._version.labels(version).set(1)

    def text(self) -> bytes:
        return generate_latest(self._registry)
