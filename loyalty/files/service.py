"""What can be done with files. Called alike by HTTP, the jobs and tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from functools import cache, partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Final

from bson.binary import Binary
from itsdangerous import BadSignature, URLSafeSerializer
from pymongo import ASCENDING, DESCENDING, IndexModel
from pymongo.errors import DuplicateKeyError

from loyalty.config import Settings
from loyalty.files.model import File, LinkExpired, clean_name, sniff
from loyalty.files.store import BlobStore, Incoming
from loyalty.infra.clock import Clock
from loyalty.infra.ids import new_id
from loyalty.infra.mongo import Document, Mongo
from loyalty.infra.problems import NotFound, Unavailable

COLLECTION = "files"
INDEXES = {
    COLLECTION: [
        IndexModel([("program", ASCENDING), ("_id", ASCENDING)], name="program"),
        IndexModel("sha256", name="sha256"),
        IndexModel("request", name="request", unique=True, partialFilterExpression={"request": {"$exists": True}}),
    ]
}

LINK_GRAIN: Final = timedelta(hours=1)
"""Links end on the hour, one to two hours ahead: so the same file has the same link for a while, and caches work."""

ORPHAN_GRACE: Final = timedelta(days=2)
"""How long a blob without a record, or an upload without an end, is left alone.

So the content of a file that was deleted is there for as long. Whatever instant the database is restored to, a snapshot
of the files that was taken within this time after it has every content that the database then refers to.
"""


def store_of(settings: Settings) -> BlobStore:
    """The blob store on the storage path."""
    return _store(settings.storage_path / "files", settings.files_reserve_bytes)


@cache
def _store(root: Path, reserve_bytes: int) -> BlobStore:
    return BlobStore(root, reserve_bytes=reserve_bytes)


def keep(
    db: Mongo,
    incoming: Incoming,
    *,
    program: str,
    name: str | None,
    declared_type: str | None,
    clock: Clock,
    idempotency_key: str | None = None,
) -> File:
    """Make what `incoming` has received a file of `program`: on the disk first, then in the database.

    A key that made a file before gives that file again, so that a retry after a crash makes no second one.
    """
    content = incoming.content()
    now = clock()
    file = File(
        id=new_id("file", now),
        program=program,
        sha256=content.sha256,
        size=content.size,
        content_type=sniff(content.head, declared=declared_type),
        name=clean_name(name),
        created_at=now,
    )
    document = file.to_document()
    if idempotency_key is not None:
        document["request"] = Binary(sha256(f"{program}\0{idempotency_key}".encode()).digest())

    def refer() -> None:
        nonlocal file
        try:
            db[COLLECTION].insert_one(document)
        except DuplicateKeyError:
            file = File.from_document(_one(db, {"request": document["request"]}))

    incoming.place(refer)
    return file


def read(db: Mongo, *, program: str, file_id: str) -> File:
    """One file of a program. NotFound when there is none."""
    return File.from_document(_one(db, {"_id": file_id, "program": program}))


def list_files(db: Mongo, *, program: str, before: str | None, limit: int) -> list[File]:
    """A page of a program's files, newest first. `before` is the id where the last page ended."""
    wanted: Document = {"program": program}
    if before is not None:
        wanted["_id"] = {"$lt": before}
    found = db[COLLECTION].find(wanted, sort=[("_id", DESCENDING)], limit=limit)
    return [File.from_document(document) for document in found]


def delete(db: Mongo, store: BlobStore, *, program: str, file_id: str) -> File:
    """Delete a file. NotFound when there is none. Housekeeping removes its content after the grace period, if no other
    file of any program has the same.

    With a storage that is away the file is gone all the same; the grace is then not counted from now.
    """
    file = read(db, program=program, file_id=file_id)
    with suppress(Unavailable):
        store.renew(file.sha256)  # before the record goes: there must be no moment without either
    document = db[COLLECTION].find_one_and_delete({"_id": file_id, "program": program})
    if document is None:
        raise NotFound(f"There is no file {file_id!r} in this program.")
    return File.from_document(document)


def link(settings: Settings, file: File, *, now: datetime) -> tuple[str, datetime]:
    """An address that opens the content without a key, and the instant when it ends."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    expires_at = hour + 2 * LINK_GRAIN
    token = _signer(settings).dumps([file.id, int(expires_at.timestamp())])
    return f"{settings.public_url}/files/{token}", expires_at


def open_link(db: Mongo, settings: Settings, token: str, *, now: datetime) -> tuple[File, int]:
    """The file behind a link, and for how many seconds it is still open. LinkExpired, or NotFound if it is not ours."""
    try:
        file_id, expires_at = _signer(settings).loads(token)
    except BadSignature:
        raise NotFound("This is not a link to a file.") from None
    remaining = expires_at - int(now.timestamp())
    if remaining <= 0:
        raise LinkExpired("Read the file's metadata for a new link.")
    return File.from_document(_one(db, {"_id": file_id})), remaining


def sweep(db: Mongo, store: BlobStore, *, check: Callable[[], object] = lambda: None) -> tuple[int, int]:
    """Remove blobs that no file refers to and uploads that never ended, both older than the grace period.

    The numbers of each. `check` is called between batches and may raise to stop.
    """
    grace = ORPHAN_GRACE.total_seconds()
    removed = 0
    for batch in _batches(store.blobs(unchanged_for_seconds=grace)):
        check()
        known = {found["sha256"] for found in db[COLLECTION].find({"sha256": {"$in": batch}}, {"sha256": 1})}
        for digest in batch:
            if digest not in known:
                removed += store.remove(digest, is_referred_to=partial(_is_referred_to, db, digest))
    return removed, store.forget_abandoned(unchanged_for_seconds=grace)


def _one(db: Mongo, wanted: Document) -> Document:
    document = db[COLLECTION].find_one(wanted)
    if document is None:
        raise NotFound("There is no such file.")
    return document


def _is_referred_to(db: Mongo, digest: str) -> bool:
    return db[COLLECTION].find_one({"sha256": digest}, {"_id": 1}) is not None


def _signer(settings: Settings) -> URLSafeSerializer:
    return URLSafeSerializer(settings.secret_key.get_secret_value(), salt="files")


def _batches(digests: Iterable[str]) -> Iterator[list[str]]:
    iterator = iter(digests)
    while batch := list(islice(iterator, 1000)):
        yield batch
