"""Failures that a client can act on, each a class with a stable code (RFC 9457 problem details).

A feature declares its own in its `model.py`; the HTTP layer renders whichever it catches as
`application/problem+json`, and the error catalogue of the API document is the set of subclasses.
"""

from __future__ import annotations

from typing import Any, ClassVar


class Problem(Exception):
    """One refusal: what is wrong, and in `extra` what is needed to act on it.

    `detail` is one sentence for the client's developer. `extra` holds further members of the document,
    such as `missing_points`. `headers` are added to the response (`Retry-After`).
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.extra = extra
        self.headers = headers or {}

    def document(self) -> dict[str, Any]:
        """The members of the problem document."""
        return {
            "type": f"/docs/errors#{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
            **self.extra,
        }


class ValidationFailed(Problem):
    """`errors` lists every defect of the request: `{pointer, code, detail}`, the pointer by RFC 6901."""

    code = "validation_failed"
    status = 422
    title = "The request is well formed but not valid"


class NotFound(Problem):
    """Nothing of this name exists in the key's program. `detail` says what was looked for, and how to name it."""

    code = "not_found"
    status = 404
    title = "There is no such resource"


class IdempotencyConflict(Problem):
    """A key stands for one request. This one has another body or path; nothing happened. Use a new key."""

    code = "idempotency_conflict"
    status = 409
    title = "The Idempotency-Key was used with another request"


class Unavailable(Problem):
    """A part that the request needs is away. The outcome of a write is unknown; a retry with the same key is safe."""

    code = "unavailable"
    status = 503
    title = "The service is not available at the moment"

    def __init__(self, detail: str, *, retry_after_seconds: int = 2) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_seconds)})
