"""Contents and records: a record never points at nothing, whatever runs at the same time or dies in between."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from loyalty.files import service
from loyalty.files.model import File
from loyalty.files.store import BlobStore
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.infra.problems import NotFound

HOUR = 3600.0
LONG_AGO = (1_000_000.0, 1_000_000.0)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "files", reserve_bytes=0)


def keep(db: Mongo, store: BlobStore, content: bytes, *, program: str = "bakery", key: str | None = None) -> File:
    with store.receive(1 << 20, expected_bytes=len(content)) as incoming:
        incoming.write(content)
        return service.keep(
            db, incoming, program=program, name="n", declared_type=None, clock=system_clock, idempotency_key=key
        )


def test_a_key_makes_one_file_even_if_its_answer_was_lost(database: Mongo, store: BlobStore) -> None:
    first = keep(database, store, b"content", key="k")
    assert keep(database, store, b"content", key="k") == first
    assert keep(database, store, b"content", key="k", program="other").id != first.id


def test_a_deleted_content_stays_for_the_grace_unless_another_program_has_it(database: Mongo, store: BlobStore) -> None:
    mine, theirs = keep(database, store, b"shared"), keep(database, store, b"shared", program="other")
    service.delete(database, store, program="bakery", file_id=mine.id)
    assert store.path(mine.sha256).read_bytes() == b"shared"
    with pytest.raises(NotFound):
        service.delete(database, store, program="bakery", file_id=theirs.id)
    os.utime(store.path(mine.sha256), LONG_AGO)
    assert service.sweep(database, store) == (0, 0)
    service.delete(database, store, program="other", file_id=theirs.id)
    assert service.sweep(database, store) == (0, 0)  # its age began anew
    os.utime(store.path(mine.sha256), LONG_AGO)
    assert service.sweep(database, store) == (1, 0)


def test_an_unknown_outcome_keeps_the_content(database: Mongo, store: BlobStore) -> None:
    """The database did not answer the insert, and may yet apply it: deleting a twin must not remove the content."""
    twin = keep(database, store, b"content")

    def no_answer() -> None:
        raise TimeoutError

    with store.receive(100, expected_bytes=7) as incoming:
        incoming.write(b"content")
        with pytest.raises(TimeoutError):
            incoming.place(no_answer)
    service.delete(database, store, program="bakery", file_id=twin.id)
    os.utime(store.path(twin.sha256), LONG_AGO)
    assert service.sweep(database, store) == (0, 0)


def test_sweeping_removes_only_what_is_old_and_unreferred(database: Mongo, store: BlobStore) -> None:
    referred, orphan, fresh = (keep(database, store, content) for content in (b"referred", b"orphan", b"fresh"))
    for file in (orphan, fresh):
        database.files.delete_one({"_id": file.id})  # a crash between record and content
    for file in (referred, orphan):
        os.utime(store.path(file.sha256), LONG_AGO)
    old_part, new_part = store.incoming / "a.part", store.incoming / "b.part"
    old_part.touch()
    new_part.touch()
    os.utime(old_part, LONG_AGO)
    assert service.sweep(database, store) == (1, 1)
    assert [store.path(file.sha256).exists() for file in (referred, orphan, fresh)] == [True, False, True]
    assert (old_part.exists(), new_part.exists()) == (False, True)


def test_sweeping_before_the_first_upload_finds_nothing(database: Mongo, store: BlobStore) -> None:
    assert service.sweep(database, store) == (0, 0)


def test_uploading_again_renews_the_grace(database: Mongo, store: BlobStore) -> None:
    file = keep(database, store, b"content")
    os.utime(store.path(file.sha256), LONG_AGO)
    keep(database, store, b"content")
    assert list(store.blobs(unchanged_for_seconds=HOUR)) == []


def test_uploads_deletes_and_sweeps_of_one_content_at_once(database: Mongo, store: BlobStore) -> None:
    """Eight threads work on the same content; a file that was acknowledged can always be read."""
    failures: list[str] = []
    done = threading.Event()

    def work(number: int) -> None:
        for _ in range(40):
            file = keep(database, store, b"contended", program=f"program{number}")
            if not store.path(file.sha256).exists():
                failures.append("an acknowledged file had no content")
            service.delete(database, store, program=file.program, file_id=file.id)

    def sweep() -> None:
        while not done.is_set():
            for digest in list(store.blobs(unchanged_for_seconds=-HOUR)):  # no grace at all: the lock has to do
                store.remove(digest, is_referred_to=lambda: database.files.find_one({}) is not None)

    sweeper = threading.Thread(target=sweep)
    workers = [threading.Thread(target=work, args=[number]) for number in range(8)]
    sweeper.start()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done.set()
    sweeper.join()
    for digest in list(store.blobs(unchanged_for_seconds=-HOUR)):
        store.remove(digest, is_referred_to=lambda: database.files.find_one({}) is not None)
    assert failures == []
    assert database.files.count_documents({}) == 0
    assert list(store.root.glob("??/??/*")) == []
    assert list(store.incoming.glob("*")) == []
