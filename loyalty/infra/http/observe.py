"""Around every request: its id, its log line, its metrics. A WSGI layer, because it must cover every answer."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import structlog

from loyalty.infra.http.context import ESCAPED_SLASH, current_request_id
from loyalty.infra.metrics import RequestMetrics

_SANE_ID = re.compile(r"[A-Za-z0-9._:/+=-]{1,128}")
_SLOW_SECONDS = 1.0
_MOST_UNREAD = 64 << 20
_QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds by machines

log = structlog.get_logger("loyalty.request")

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def keep_escaped_slashes(environ: dict[str, Any], target: str) -> None:
    """Let `%2F` stand for a slash inside one part of the path, so that an external id may hold one.

    WSGI decodes the path before it is split. The decoded path is therefore made again with U+2215, which
    `loyalty.infra.http.endpoint` turns into the slash that it stands for.
    """
    path = target.partition("?")[0]
    if path.startswith("/") and "%2f" in path.lower():
        marked = re.sub("%2f", quote(ESCAPED_SLASH), path, flags=re.IGNORECASE)
        environ["PATH_INFO"] = unquote_to_bytes(marked).decode("latin-1")


def read_to_the_end(environ: dict[str, Any]) -> None:
    """Read what a refusal has left of the body, so that the connection can be used again.

    gunicorn throws away 64 KiB of it, and then ends a connection of which the client was told that it goes on: the
    next request would have no answer. It cannot be made to say so either.
    """
    body, unread = environ["wsgi.input"], _MOST_UNREAD
    # Who is gone meanwhile, or sends something else than HTTP, has no next request.
    with suppress(Exception):
        while unread > 0 and (part := body.read(1 << 16)):
            unread -= len(part)


class Observed:
    """Wraps the application. Endpoints leave `loyalty.route`, `loyalty.caller` and `loyalty.headers` in the environ.

    NGINX writes every request to its access log, with the same id. Here stand those that were refused, failed or slow;
    `logs_all` adds the others, which costs the journal more work than the request took.
    """

    def __init__(self, application: Wsgi, *, logs_all: bool) -> None:
        self._application = application
        self._logs_all = logs_all
        self._metrics = RequestMetrics()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        started = time.perf_counter()
        request_id = environ.get("HTTP_X_REQUEST_ID")
        if request_id is None or not _SANE_ID.fullmatch(request_id):
            request_id = secrets.token_hex(12)
        token = current_request_id.set(request_id)
        target = environ.get("RAW_URI", "")
        if "%2" in target:
            keep_escaped_slashes(environ, target)
        status = "500"

        def start(line: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            nonlocal status
            status = line[:3]
            headers.append(("X-Request-Id", request_id))
            headers.extend(environ.get("loyalty.headers", ()))
            return start_response(line, headers, exc_info)

        try:
            answer = self._application(environ, start)
            if status >= "400":
                read_to_the_end(environ)
            return answer
        finally:
            seconds = time.perf_counter() - started
            rule = environ.get("loyalty.route", "unmatched")
            method = environ["REQUEST_METHOD"]
            self._metrics.observe(method, rule, status, seconds)
            if rule not in _QUIET and (status >= "400" or seconds > _SLOW_SECONDS or self._logs_all):
                caller = environ.get("loyalty.caller")
                log.info(
                    "request",
                    method=method,
                    route=rule,
                    status=int(status),
                    milliseconds=round(seconds * 1000, 2),
                    key=caller.key if caller else None,
                )
            current_request_id.reset(token)
