"""Prometheus metrics, summed over gunicorn's workers when `PROMETHEUS_MULTIPROC_DIR` names a folder."""

from __future__ import annotations

import os
from functools import lru_cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Built once a process: prometheus_client refuses a second metric of the same name.
_REQUESTS = Counter("loyalty_http_requests", "Answers by method, route and status.", ["method", "route", "status"])
_SECONDS = Histogram(
    "loyalty_http_request_seconds",
    "Time from the first byte of the request to the answer.",
    ["route"],
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
)
_VIOLATIONS = Gauge(
    "loyalty_ledger_violations",
    "Entries that do not verify and that nobody has resolved.",
    multiprocess_mode="mostrecent",
)


@lru_cache(maxsize=4096)
def _children(method: str, route: str, status: str) -> tuple[Counter, Histogram]:
    # Looking a child up by label costs more than counting; routes are few, so they are kept.
    return _REQUESTS.labels(method, route, status), _SECONDS.labels(route)


class RequestMetrics:
    """Counts requests. Labelled by route, never by path, so that ids do not multiply the series."""

    def observe(self, method: str, route: str, status: str, seconds: float) -> None:
        """Count one answer."""
        requests, histogram = _children(method if method in _METHODS else "OTHER", route, status)
        requests.inc()
        histogram.observe(seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS"})


def set_violations(count: int) -> None:
    """How many entries do not verify, as the database says now."""
    _VIOLATIONS.set(count)


def exposition() -> bytes:
    """All metrics in the Prometheus text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
