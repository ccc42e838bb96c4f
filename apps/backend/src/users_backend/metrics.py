"""What `/metrics` shows, for Prometheus."""

from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

from users_backend.store import Store, Users

# Series of creation times, one for each other series, which nothing reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters of one app, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "http_requests", "Answered requests.", ("method", "route", "status"), registry=self.registry
        )
        self._seconds = Histogram(
            "http_request_duration_seconds", "Time from request to answer.", ("method", "route"), registry=self.registry
        )
        self._commits = Counter("users_commits", "Transactions that changed the database.", registry=self.registry)
        self._batch = Histogram(
            "users_commit_batch_size",
            "Writes that shared one commit.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000),
            registry=self.registry,
        )

        # Finding the series by its labels takes longer than counting.
        self._count = cache(self._requests.labels)
        self._observe = cache(self._seconds.labels)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._count(method, route, status).inc()
        self._observe(method, route).observe(seconds)

    def commit(self, writes: int) -> None:
        """Count one commit of this many writes."""
        self._commits.inc()
        self._batch.observe(writes)

    def watch(self, store: Users) -> None:
        """Show the state of the store whenever the metrics are read."""
        Gauge("users_queue_length", "Requests waiting for the database.", registry=self.registry).set_function(
            lambda: store.waiting
        )
        if isinstance(store, Store):
            Gauge("users_database_bytes", "Size of the database file.", registry=self.registry).set_function(
                lambda: _size(store.path)
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # no file yet, or a folder that cannot be read
        return 0
