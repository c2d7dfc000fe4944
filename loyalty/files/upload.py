"""Reading an upload: the body itself, or the one file of a form, streamed to where it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

from flask import Request
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.formparser import MultiPartParser

from loyalty.files.store import Incoming, TooManyBytes
from loyalty.infra.http.body import too_large
from loyalty.infra.http.problems import BadRequest
from loyalty.infra.problems import Problem, ValidationFailed

_CHUNK = 1 << 16
_FORM_OVERHEAD = 1 << 16  # boundaries, headers and small fields around the file of a form


def announced_bytes(request: Request, *, max_bytes: int) -> int:
    """How many bytes the upload may take. 413 at once when it says that they are too many."""
    room = max_bytes + (_FORM_OVERHEAD if _is_form(request) else 0)
    request.max_content_length = room  # holds for a chunked body too, which announces nothing
    if request.content_length is None:
        return max_bytes
    if request.content_length > room:
        raise too_large(max_bytes)
    return request.content_length


@contextmanager
def body_read_to_the_end(request: Request) -> Iterator[None]:
    """Read what a refusal left unread, so that the client gets the answer and can go on using the connection."""
    try:
        yield
    except Problem:
        with suppress(RequestEntityTooLarge, ClientDisconnected):
            while request.stream.read(_CHUNK):
                pass
        raise


def read_upload(request: Request, incoming: Incoming, *, max_bytes: int) -> tuple[str | None, str | None]:
    """Stream the content into `incoming`; the name and the content type that the client gives it."""
    try:
        if _is_form(request):
            name, declared = _read_form(request, incoming)
        else:
            name, declared = None, request.content_type
            while chunk := request.stream.read(_CHUNK):
                incoming.write(chunk)
    except (TooManyBytes, RequestEntityTooLarge):
        raise too_large(max_bytes) from None
    if request.content_length is not None and request.stream.tell() < request.content_length:
        # The server ends the stream when the client goes away, which looks like the end of a body.
        raise BadRequest("The body ended before its Content-Length.")
    if incoming.content().size == 0:
        detail = {"pointer": "", "code": "missing", "detail": "Send the content of the file as the body."}
        raise ValidationFailed("The upload is empty.", errors=[detail])
    return name, declared


def _is_form(request: Request) -> bool:
    return request.mimetype == "multipart/form-data"


def _read_form(request: Request, incoming: Incoming) -> tuple[str | None, str | None]:
    boundary = request.mimetype_params.get("boundary", "").encode("ascii", "ignore")
    if not boundary:
        raise BadRequest("A multipart form needs a boundary in its Content-Type.")
    files: list[tuple[str | None, str | None]] = []

    def take(
        total_content_length: int | None = None,
        content_type: str | None = None,
        filename: str | None = None,
        content_length: int | None = None,
    ) -> IO[bytes]:
        if files:
            detail = {"pointer": "", "code": "repeated", "detail": "Send one file in a request."}
            raise ValidationFailed("The form has more than one file.", errors=[detail])
        files.append((filename, content_type))
        return _Sink(incoming)  # type: ignore[return-value]

    try:
        # The limit on memory is the parser's own buffer too, which has to hold more than a chunk.
        MultiPartParser(take, max_form_memory_size=8 * _CHUNK, buffer_size=_CHUNK, max_form_parts=20).parse(
            request.stream, boundary, request.content_length
        )
    except ValueError as error:
        raise BadRequest(f"The form cannot be read: {error}.") from None
    if not files:
        detail = {"pointer": "", "code": "missing", "detail": "Send the file in a part with a filename."}
        raise ValidationFailed("The form has no file.", errors=[detail])
    return files[0]


class _Sink:
    """What the form parser takes for a file: it writes it and rewinds it."""

    def __init__(self, incoming: Incoming) -> None:
        self.write = incoming.write

    def seek(self, *_: Any) -> int:
        return 0
