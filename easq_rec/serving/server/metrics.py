"""What `/metrics` says, in the format of Prometheus: of all processes of a server together."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0)
CALLS = (1, 2, 4, 8, 16, 32, 64, 128)
SHARED = "PROMETHEUS_MULTIPROC_DIR"
"""Environment variable with the folder in which processes share their metrics. The library reads it when it is
imported."""


class ServerMetrics:
    """The metrics of one process, and the view of all.

    Args:
        arms: whose packages serve.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, arms: Iterable[str]) -> None:
        self._registry = on = CollectorRegistry()
        self._shared = os.environ.get(SHARED)
        if self._shared:
            _remove_dead(Path(self._shared))
        self._answers = Counter("easq_answers", "Answers of /score by HTTP status.", ["status"], registry=on)
        took = "From the headers of a call to its answer."
        self._latency = Histogram("easq_answer_seconds", took, buckets=SECONDS, registry=on)
        self._calls = Histogram("easq_batch_calls", "Calls that were scored together.", buckets=CALLS, registry=on)
        self._candidates = Counter("easq_candidates", "Candidates that were scored.", ["arm"], registry=on)
        self._scoring = Histogram("easq_batch_seconds", "Time of a batch in the program.", buckets=SECONDS, registry=on)
        self._refused = Counter("easq_packages_refused", "Packages that were not taken.", ["arm"], registry=on)
        self._swaps = Counter("easq_packages_served", "Packages that were taken.", ["arm"], registry=on)
        processes = "Processes that serve a version."
        self._version = Gauge("easq_package", processes, ["arm", "version"], registry=on, multiprocess_mode="livesum")
        for arm in arms:
            # A counter that is 0 is shown, too: an alarm needs it.
            for counter in (self._candidates, self._refused, self._swaps):
                counter.labels(arm)
        self._now: dict[str, str] = {}
        self._unscored = Counter("easq_shadow_skipped", "Calls that the second package had no time for.", registry=on)
        self._written = Counter("easq_log_requests", "Requests that the log has.", registry=on)
        self._lost = Counter("easq_log_requests_lost", "Requests that could not be logged.", registry=on)

    def answered(self, status: int, seconds: float) -> None:
        self._answers.labels(str(status)).inc()
        self._latency.observe(seconds)

    def batch(self, arm: str, calls: int, candidates: int, seconds: float) -> None:
        self._calls.observe(calls)
        self._candidates.labels(arm).inc(candidates)
        self._scoring.observe(seconds)

    def version(self, arm: str, version: str, *, accepted: bool) -> None:
        """A package was taken, or refused."""
        if not accepted:
            self._refused.labels(arm).inc()
            return
        self._swaps.labels(arm).inc()
        before = self._now.get(arm)
        if before is not None and before != version:
            # Not removed: the file of a process keeps the last value.
            self._version.labels(arm, before).set(0)
        self._now[arm] = version
        self._version.labels(arm, version).set(1)

    def skipped(self) -> None:
        """The second package did not score a call."""
        self._unscored.inc()

    def logged(self, written: int, lost: int) -> None:
        """Requests were logged, or lost."""
        self._written.inc(written)
        self._lost.inc(lost)

    def text(self) -> bytes:
        if not self._shared:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=self._shared)
        return generate_latest(together)


def _remove_dead(folder: Path) -> None:
    """Removes the gauges of processes that have ended. Counters stay, so that no sum goes back."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = int(file.stem.rpartition("_")[2])
        if not Path(f"/proc/{pid}").exists():
            mark_process_dead(pid, str(folder))
