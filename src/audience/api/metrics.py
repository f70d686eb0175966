"""The metrics for Prometheus. Every name of a metric is in this file."""

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audience.app.root import App

BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class StoreCollector(Collector):
    """Counts our own records at each scrape, so the numbers are the same whichever process is scraped."""

    def __init__(self, app: App) -> None:
        self._app = app

    def describe(self) -> list[Metric]:
        """Returns nothing, so that the store is not read before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        runs = GaugeMetricFamily("audience_runs", "Runs by state", labels=["state"])
        operations = GaugeMetricFamily("audience_operations", "Operations by kind and state", labels=["kind", "state"])
        for (kind, state), n in self._app.operations.counts().items():
            operations.add_metric([kind, state], n)
            if kind == "run":
                runs.add_metric([state], n)
        yield runs
        yield operations
        jobs = GaugeMetricFamily("audience_jobs", "Jobs by kind and state", labels=["kind", "state"])
        for (kind, state), n in self._app.operations.job_counts().items():
            jobs.add_metric([kind, state], n)
        yield jobs
        rows = self._app.runs.rows_read()
        yield GaugeMetricFamily("audience_rows_read", "Rows read by the runs that are not deleted", value=rows)
        workers = self._app.operations.workers_alive()
        yield GaugeMetricFamily("audience_workers", "Worker processes alive", value=len(workers))
        threads = sum(worker["threads"] for worker in workers)
        yield GaugeMetricFamily("audience_worker_threads", "Partitions that can be worked on at once", value=threads)


class Metrics:
    """The registry of one API, and the middleware that measures its requests."""

    def __init__(self, app: App) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(StoreCollector(app))
        self.requests = Histogram(
            "audience_http_request_seconds",
            "Seconds until a request was answered",
            ["method", "route", "status"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )


class Measured:
    """Middleware that measures how long each request took, by route, not by path."""

    def __init__(self, application: ASGIApp, metrics: Metrics) -> None:
        self.application = application
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.application(scope, receive, send)
            return
        began = time.perf_counter()

        async def observed(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "other")
                labels = (scope["method"], route, str(message["status"]))
                self.metrics.requests.labels(*labels).observe(time.perf_counter() - began)
            await send(message)

        await self.application(scope, receive, observed)
