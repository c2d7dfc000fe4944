"""What an endpoint knows about its request."""

from __future__ import annotations

import re
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING

from loyalty.infra.http.problems import (
    BadRequest,
    InvalidIdempotencyKey,
    PreconditionFailed,
    PreconditionRequired,
)

if TYPE_CHECKING:
    from flask import Request

    from loyalty.infra.ids import new_id
from loyalty.infra.ids import new_id
from loyalty.infra.services import Services

current_request_id: ContextVar[str] = ContextVar("request_id", default="")

ESCAPED_SLASH = "\u2215"
"""Stands for `%2F` in a path until the path is split. A look-alike of the slash, so nothing readable is lost."""

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_VERSION_TAG = re.compile(r'"v(\d{1,15})"')


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends the request: an API key, which belongs to one program and mode."""

    key: str
    program: str
    mode: str
    scopes: frozenset[str]


class Context:
    """One request: the parts of the application, the caller, and the headers that steer the answer."""

    __slots__ = ("_caller", "request", "services")

    def __init__(self, services: Services, request: Request, caller: Caller | None) -> None:
        self.services = services
        self.request = request
        self._caller = caller

    @property
    def caller(self) -> Caller:
        """Who is calling. Only endpoints that declare a scope have one."""
        if self._caller is None:
            raise RuntimeError("a public endpoint has no caller: declare a scope")
        return self._caller

    @property
    def program(self) -> str:
        """The program that the caller's key belongs to."""
        return self.caller.program

    @property
    def request_id(self) -> str:
        """The id that ties the log lines, the answer and a problem document together."""
        return current_request_id.get()

    def idempotency_key(self) -> str | None:
        """The `Idempotency-Key`, checked: 1 to 255 visible ASCII characters. None when the header is absent."""
        value: str | None = self.request.environ.get("HTTP_IDEMPOTENCY_KEY")
        if value is not None and not _IDEMPOTENCY_KEY.fullmatch(value):
            raise InvalidIdempotencyKey("Send 1 to 255 visible ASCII characters, for instance a UUID.")
        return value

    def business_key(self) -> tuple[str, ...]:
        """What makes this request happen once: the caller's Idempotency-Key, or without one the request itself."""
        header = self.idempotency_key()
        return ("request", self.caller.key, header) if header else ("request", new_id("req", self.services.clock()))

    def expected_tag(self) -> str:
        """The entity tag in `If-Match`, or `*`. 428 when there is none, 400 when it is no tag."""
        header: str | None = self.request.environ.get("HTTP_IF_MATCH")
        if header is None:
            raise PreconditionRequired("Read the resource and send its ETag in If-Match.")
        tag = header.strip()
        if tag != "*" and not tag.startswith(('"', 'W/"')):
            raise BadRequest('If-Match must hold the ETag of the resource, such as "v3".')
        return tag

    def expected_version(self, *, required: bool = True) -> int | None:
        """The version in `If-Match: "v3"`. 428 when it is required and absent; None for `*` or an optional absence."""
        if not required and "HTTP_IF_MATCH" not in self.request.environ:
            return None
        tag = self.expected_tag()
        if tag == "*":
            return None
        match = _VERSION_TAG.fullmatch(tag)
        if match is None:
            raise PreconditionFailed("If-Match names a version that this resource never had. Read it again.")
        return int(match.group(1))


def version_tag(version: int) -> str:
    """The strong entity tag of a versioned resource, as `ETag` and `If-Match` carry it."""
    return f'"v{version}"'
