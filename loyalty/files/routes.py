"""/v1/files and the signed links to their contents"""

from __future__ import annotations

from typing import Annotated, cast

import structlog
from flask import Request, Response, send_file
from pydantic import BaseModel, Field

from loyalty.files import service
from loyalty.files.model import SHOWN_INLINE, File, FileOut, InsufficientStorage, LinkExpired, UploadQuery
from loyalty.files.upload import announced_bytes, body_read_to_the_end, read_upload
from loyalty.infra.http.endpoint import Api, Context, Reply
from loyalty.infra.http.idempotency import fingerprint, once
from loyalty.infra.http.model import Page, PageQuery
from loyalty.infra.http.paging import Pager
from loyalty.infra.http.reply import render
from loyalty.infra.problems import NotFound, Unavailable

log = structlog.get_logger(__name__)

api = Api("files", "Files", "Contents that are kept on the storage: uploaded once, opened by signed links.")

FilePath = Annotated[str, Field(description="The id of a file.", examples=["file_01kat2jz3v8f5w0q6g4y7n1b2c"])]
LinkToken = Annotated[str, Field(description="The signed permission, as `download_url` carries it.")]


class FilePage(Page[FileOut]):
    """A page of files."""


@api.post(
    "/v1/files",
    scope="files:write",
    status=201,
    idempotency_header=True,
    media=("application/octet-stream", "multipart/form-data"),
    problems=(InsufficientStorage,),
)
def upload_file(context: Context, upload: Request, query: UploadQuery) -> Reply[FileOut]:
    """Upload a file

    The body is the content, or a form with one file. It is on the disk when the answer comes. The type is told from
    the content; markup and anything unknown is only ever downloaded, never shown by a browser."""
    services = context.services
    max_bytes = services.settings.files_max_bytes
    key = context.idempotency_key()
    expected = announced_bytes(upload, max_bytes=max_bytes)
    store = service.store_of(services.settings)
    with body_read_to_the_end(upload), store.receive(max_bytes, expected_bytes=expected) as incoming:
        name, declared = read_upload(upload, incoming, max_bytes=max_bytes)
        name = query.name or name

        def perform() -> tuple[Response, bytes]:
            file = service.keep(
                services.db,
                incoming,
                program=context.program,
                name=name,
                declared_type=declared,
                clock=services.clock,
                idempotency_key=key,
            )
            made: Reply[BaseModel] = Reply(_out(context, file), headers={"Location": f"/v1/files/{file.id}"})
            response = render(made, 201, upload)
            return response, response.get_data()

        if key is None:
            return cast("Reply[FileOut]", perform()[0])
        same = fingerprint("POST", "/v1/files", incoming.content().sha256, name or "", declared or "")
        answer = once(
            services.db, program=context.program, key=key, fingerprint=same, clock=services.clock, perform=perform
        )
        return cast("Reply[FileOut]", answer)  # already rendered, and passed on as it is


@api.get("/v1/files", scope="files:read")
def list_files(context: Context, query: PageQuery) -> Reply[FilePage]:
    """List files

    Newest first."""
    pager = Pager(context, query, "files")
    found = service.list_files(context.services.db, program=context.program, before=pager.after, limit=pager.limit + 1)
    page = found[: pager.limit]
    last = page[-1].id if len(found) > pager.limit else None
    return pager.reply(FilePage, [_out(context, file) for file in page], last=last)


@api.get("/v1/files/<file_id>", scope="files:read", problems=(NotFound,))
def read_file(context: Context, file_id: FilePath) -> FileOut:
    """Read a file's metadata

    With a link to its content that is open for one to two hours."""
    return _out(context, service.read(context.services.db, program=context.program, file_id=file_id))


@api.delete("/v1/files/<file_id>", scope="files:write", idempotent=True, problems=(NotFound,))
def delete_file(context: Context, file_id: FilePath) -> FileOut:
    """Delete a file

    Its links end at once. The content is removed after two days, so that backups have it, when no other file has the
    same."""
    services = context.services
    store = service.store_of(services.settings)
    return _out(context, service.delete(services.db, store, program=context.program, file_id=file_id))


@api.get("/files/<token>", scope=None, answers={206: "The part that Range asks for."}, problems=(NotFound, LinkExpired))
def open_file(context: Context, token: LinkToken) -> Response:
    """Open a file's content

    The address is `download_url` of a file; it carries its own permission and needs no key."""
    services = context.services
    settings = services.settings
    file, seconds = service.open_link(services.db, settings, token, now=services.clock())
    store = service.store_of(settings)
    path = store.path(file.sha256)
    if not store.has(file.sha256):
        log.error("a blob is missing: is the storage mounted?", path=str(path))
        raise Unavailable("The content cannot be read at the moment. Tell the operator.", retry_after_seconds=30)
    if settings.accel_redirect:
        response = Response(headers={"X-Accel-Redirect": f"/_files/{store.relative(file.sha256)}"})
    else:
        response = send_file(path, conditional=True, etag=file.sha256, mimetype=file.content_type)
    shown = "inline" if file.content_type in SHOWN_INLINE else "attachment"
    response.headers.set("Content-Type", file.content_type)
    response.headers.set("Content-Disposition", shown, filename=file.name)
    response.headers.set("Cache-Control", f"private, max-age={min(seconds, 3600)}")
    response.headers.set("X-Content-Type-Options", "nosniff")
    response.headers.set("Content-Security-Policy", "default-src 'none'; sandbox")
    return response


def _out(context: Context, file: File) -> FileOut:
    url, expires_at = service.link(context.services.settings, file, now=context.services.clock())
    return FileOut(
        id=file.id,
        name=file.name,
        content_type=file.content_type,
        size=file.size,
        sha256=file.sha256,
        created_at=file.created_at,
        download_url=url,
        download_expires_at=expires_at,
    )
