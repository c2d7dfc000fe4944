"""Failures as `application/problem+json`, whatever raised them. Never a stack trace, never an internal name."""

from __future__ import annotations

import orjson
import structlog
from flask import Flask, Response
from gunicorn.http.errors import ParseException  # type: ignore[import-untyped]
from pymongo.errors import PyMongoError
from werkzeug.exceptions import HTTPException

from loyalty.infra.http.context import current_request_id
from loyalty.infra.http.problems import (
    BadRequest,
    InternalError,
    MethodNotAllowed,
    PayloadTooLarge,
    UnsupportedMediaType,
)
from loyalty.infra.mongo import database_is_away
from loyalty.infra.patience import TimeUp
from loyalty.infra.problems import NotFound, Problem, Unavailable

PROBLEM_JSON = "application/problem+json"

log = structlog.get_logger(__name__)

_HTTP_PROBLEMS: dict[int, type[Problem]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
}
_HTTP_DETAILS = {
    404: "Nothing is here. The API document at /v1/openapi.json lists what is.",
    405: "Use one of the methods in the Allow header.",
    413: "Send less in one request.",
}


def problem_response(problem: Problem) -> Response:
    """The response for one refusal."""
    document = problem.document()
    document["request_id"] = current_request_id.get()
    return Response(
        orjson.dumps(document),
        problem.status,
        {"Cache-Control": "no-store", **problem.headers},
        content_type=PROBLEM_JSON,
    )


def install_error_handlers(app: Flask) -> None:
    """Make every failure of the application a problem document."""
    app.register_error_handler(Exception, failure_response)
    app.register_error_handler(HTTPException, _http_error)


def failure_response(error: Exception) -> Response:
    """The response for whatever was raised. What nobody foresaw is logged, and tells the client nothing but its id."""
    if isinstance(error, Problem):
        return problem_response(error)
    if isinstance(error, ParseException):
        # The server decodes a chunked body while the application reads it, so its refusal comes up here.
        return problem_response(BadRequest("The body is not in the transfer coding that the request declares."))
    if isinstance(error, TimeUp) or (isinstance(error, PyMongoError) and database_is_away(error)):
        log.warning("database is away", error=type(error).__name__, reason=str(error)[:300])
        return problem_response(
            Unavailable("The database does not answer. Send the same request again; it is safe to repeat.")
        )
    log.error("unexpected failure", exc_info=error)
    return problem_response(
        InternalError(
            "The operator finds the cause in the log by the request id. Repeating with the same Idempotency-Key or "
            "event id is safe."
        )
    )


def _http_error(error: HTTPException) -> Response:
    response = error.get_response()
    if error.code is None or error.code < 400:
        return Response(response.get_data(), response.status_code, dict(response.headers))  # a redirect
    kind = _HTTP_PROBLEMS.get(error.code, BadRequest if error.code < 500 else InternalError)
    detail = _HTTP_DETAILS.get(error.code, "Check the request against the API document at /v1/openapi.json.")
    kept = {name: response.headers[name] for name in ("Allow", "Retry-After") if name in response.headers}
    return problem_response(kind(detail, headers=kept))
