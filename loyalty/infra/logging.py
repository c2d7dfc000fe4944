"""Logs: one JSON object a line on standard output, with the request id; the journal does the rest."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict, WrappedLogger

from loyalty.config import Settings
from loyalty.infra.http.context import current_request_id


def configure_logging(settings: Settings) -> None:
    """Send structlog and the standard library's loggers to standard output as JSON, from `log_level` up."""
    least: int = getattr(logging, settings.log_level.upper())
    shared: list[Any] = [
        structlog.processors.add_log_level,
        _add_request_id,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer(serializer=_dumps)],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=lambda event, **_: _dumps(event).decode()),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(least, logging.INFO))


def _add_request_id(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    request_id = current_request_id.get()
    if request_id:
        event["request_id"] = request_id
    return event


def _dumps(event: EventDict, **_: Any) -> bytes:
    return orjson.dumps(event, default=str)
