"""Turning what a view returns into bytes, an entity tag, and 304 where the client has them already."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Generic, TypeVar

from flask import Request, Response
from pydantic import BaseModel

JSON = "application/json"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reply(Generic[T]):
    """An answer that needs more than its body. A view with nothing to add returns the model itself.

    `body` is the model, or JSON already encoded where speed counts. `etag` is a strong tag with its quotes.
    `stored` is what an Idempotency-Key keeps in place of `body` when that holds a secret.
    """

    body: T | bytes
    status: int | None = None
    etag: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    stored: T | None = None


def encode(body: BaseModel | bytes) -> bytes:
    """JSON as bytes."""
    return body if isinstance(body, bytes) else body.__pydantic_serializer__.to_json(body, by_alias=True)


def render(result: BaseModel | Reply[BaseModel] | Response, status: int, request: Request) -> Response:
    """The response for what a view returned."""
    if isinstance(result, Response):
        return result
    code, headers, payload = finish(result, status, request)
    return Response(payload, code, headers)


def finish(result: BaseModel | Reply[BaseModel], status: int, request: Request) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and bytes of an answer. A read always has a strong ETag and honours If-None-Match."""
    reply = result if isinstance(result, Reply) else Reply(result)
    payload = encode(reply.body)
    headers = {"Content-Type": JSON, **reply.headers}
    etag = reply.etag
    if request.method in ("GET", "HEAD"):
        etag = etag or f'"{blake2b(payload, digest_size=12).hexdigest()}"'
        headers.setdefault("Cache-Control", "private, no-cache")
        wanted = request.environ.get("HTTP_IF_NONE_MATCH")
        if wanted is not None and _matches(wanted, etag):
            del headers["Content-Type"]
            headers["ETag"] = etag
            return 304, headers, b""
    else:
        headers.setdefault("Cache-Control", "no-store")
    if etag is not None:
        headers["ETag"] = etag
    return reply.status or status, headers, payload


def _matches(header: str, etag: str) -> bool:
    """If-None-Match compares weakly (RFC 9110, 13.1.2): proxies that compress may have marked our tag weak."""
    return header.strip() == "*" or etag in (tag.strip().removeprefix("W/") for tag in header.split(","))
