"""Refusals that any endpoint can give, whatever its feature."""

from __future__ import annotations

from loyalty.infra.problems import Problem


class MalformedJson(Problem):
    """The body is not JSON in UTF-8."""

    code = "malformed_json"
    status = 400
    title = "The body is not valid JSON"


class BadRequest(Problem):
    """The request line or a header cannot be understood."""

    code = "bad_request"
    status = 400
    title = "The request cannot be understood"


class InvalidCursor(Problem):
    """The cursor was not made by this list, or it was changed on the way. Start again without one."""

    code = "invalid_cursor"
    status = 400
    title = "The cursor is not valid"


class InvalidIdempotencyKey(Problem):
    """An Idempotency-Key has 1 to 255 visible ASCII characters."""

    code = "invalid_idempotency_key"
    status = 400
    title = "The Idempotency-Key is not valid"


class Unauthenticated(Problem):
    """The request carries no key, or one that is unknown, expired or revoked."""

    code = "unauthenticated"
    status = 401
    title = "A valid API key is needed"

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"WWW-Authenticate": 'Bearer realm="loyalty"'})


class Forbidden(Problem):
    """The key is valid but lacks a scope, or belongs to another program."""

    code = "forbidden"
    status = 403
    title = "The API key may not do this"


class MethodNotAllowed(Problem):
    """The resource exists but does not have this method; `Allow` names those it has."""

    code = "method_not_allowed"
    status = 405
    title = "The resource does not have this method"


class RequestInProgress(Problem):
    """A request with the same Idempotency-Key is still being worked on. Send it again after `Retry-After`."""

    code = "request_in_progress"
    status = 409
    title = "The same request is being worked on"


class PreconditionFailed(Problem):
    """Somebody changed the resource since it was read. Read it again, then decide."""

    code = "precondition_failed"
    status = 412
    title = "The resource has changed since it was read"


class PayloadTooLarge(Problem):
    """The body is larger than this endpoint takes; `max_bytes` says how much it does."""

    code = "payload_too_large"
    status = 413
    title = "The body is too large"


class UnsupportedMediaType(Problem):
    """The body is not of a content type that this endpoint reads."""

    code = "unsupported_media_type"
    status = 415
    title = "The content type is not supported"


class PreconditionRequired(Problem):
    """A configuration write must say in `If-Match` which version it changes."""

    code = "precondition_required"
    status = 428
    title = "The request must be conditional"


class RateLimited(Problem):
    """The key has sent more requests than it may in a minute. Wait for `Retry-After` seconds."""

    code = "rate_limited"
    status = 429
    title = "Too many requests"


class InternalError(Problem):
    """Something unexpected. The operator finds the cause in the log by `request_id`."""

    code = "internal_error"
    status = 500
    title = "Something went wrong on our side"
