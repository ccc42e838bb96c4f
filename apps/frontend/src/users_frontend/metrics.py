"""What `/metrics` shows, for Prometheus. The counters live in this process: gunicorn has one worker."""

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

# Series of creation times, one for each other series, which nothing reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The counters of one app, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        requests = Counter("http_requests", "Answered requests.", ("method", "route", "status"), registry=self.registry)
        seconds = Histogram(
            "http_request_duration_seconds", "Time from request to answer.", ("method", "route"), registry=self.registry
        )
        # Finding the series by its labels takes longer than counting.
        self._count = cache(requests.labels)
        self._observe = cache(seconds.labels)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request."""
        self._count(method, route, status).inc()
        self._observe(method, route).observe(seconds)
