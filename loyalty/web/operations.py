"""/healthz /readyz /version /metrics: for machines that watch the service. Public, never rate limited."""

from __future__ import annotations

from contextlib import suppress

import orjson
from apiflask import APIBlueprint
from flask import Response, current_app, request
from pymongo.errors import PyMongoError

from loyalty.infra import metrics
from loyalty.infra.health import readiness, version
from loyalty.infra.http.endpoint import EXTENSION, Wiring
from loyalty.proofs.service import count_open_violations

operations = APIBlueprint("operations", __name__, enable_openapi=False)


@operations.get("/healthz")
def healthz() -> Response:
    """The process answers."""
    return _json({"alive": True})


@operations.get("/readyz")
def readyz() -> Response:
    """The parts that requests need: 200 when they can be served, 503 when not."""
    ready, document = readiness(_wiring().services)
    response = _json(document, 200 if ready else 503)
    if not ready:
        response.headers["Retry-After"] = "2"
    return response


@operations.get("/version")
def show_version() -> Response:
    """Which release runs here."""
    return _json(version(_wiring().services))


@operations.get("/metrics")
def show_metrics() -> Response:
    """Prometheus metrics. NGINX refuses this path from outside."""
    with suppress(PyMongoError):  # while the database is away, the last count stands
        metrics.set_violations(count_open_violations(_wiring().services.db))
    return Response(metrics.exposition(), content_type=metrics.CONTENT_TYPE)


@operations.before_request
def name_route() -> None:
    """Label logs and metrics."""
    request.environ["loyalty.route"] = request.path


def _wiring() -> Wiring:
    wiring: Wiring = current_app.extensions[EXTENSION]
    return wiring


def _json(document: object, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, {"Cache-Control": "no-store"}, content_type="application/json")
