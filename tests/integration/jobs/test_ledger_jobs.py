"""The jobs that follow the ledger: nothing is missed over a stop, a crash or a lost position, and seals verify."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pymongo.errors import PyMongoError

from loyalty.config import load_settings
from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo
from loyalty.jobs import projection
from loyalty.jobs.lease import Lease, LeaseLost, Turn
from loyalty.jobs.model import PeriodicJob, Work
from loyalty.jobs.sealing import SealEveryMinute, seal_key, write_daily_files
from loyalty.jobs.service import list_jobs
from loyalty.jobs.worker import Worker
from loyalty.ledger.projection import rebuild, wallet_document
from loyalty.ledger.verify import verify
from loyalty.status import points_available
from tests.integration.jobs.ledger import earn
from tests.servers import wait_until

MIDNIGHT = datetime(2026, 2, 2, tzinfo=timezone.utc)


@pytest.fixture
def work(database: Mongo, mongo_uri: str, tmp_path: Path) -> Work:
    """What a job is handed, with a lease that is held."""
    settings = load_settings(
        mongo_uri=mongo_uri, secret_key="s" * 32, seal_key="A" * 43 + "=", storage_path=tmp_path, node_name="box1"
    )
    lease = Lease(database, "jobs", node="box1", seconds=600)
    assert lease.acquire()
    return Work(database, settings, system_clock, Turn(lease, lease.term))


def wallets(db: Mongo) -> list[dict[str, Any]]:
    return list(db.wallets.find(sort=[("_id", 1)]))


def expected_wallets(db: Mongo) -> list[dict[str, Any]]:
    newest = {entry["_id"] >> 24: wallet_document(entry) for entry in db.ledger.find(sort=[("_id", 1)])}
    return [newest[member] for member in sorted(newest)]


@contextmanager
def following(work: Work) -> Iterator[list[BaseException]]:
    """The follower in a thread; its turn is over at the end. Collects how it ended."""
    ended: list[BaseException] = []
    turn = Turn(work.turn.lease, work.turn.term)
    stop = threading.Event()

    def beat(lag: float | None, items: int) -> None:
        if stop.is_set():
            raise LeaseLost("the test is over")

    def run() -> None:
        try:
            projection.follow(replace(work, turn=turn), beat)
        except (LeaseLost, PyMongoError) as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    yield ended
    stop.set()
    thread.join(timeout=20)
    assert not thread.is_alive()


def wait_for_projection(db: Mongo) -> None:
    wait_until(
        lambda: db.wallets.count_documents({}) > 0 and wallets(db) == expected_wallets(db),
        timeout_s=15,
        failure=lambda: f"{db.wallets.count_documents({})} wallets",
    )


def test_it_starts_with_what_is_there_and_goes_on(work: Work) -> None:
    earn(work.db, range(1, 50))
    with following(work):
        wait_for_projection(work.db)
        earn(work.db, range(25, 75))
        wait_for_projection(work.db)
        wait_until(
            lambda: work.db.positions.count_documents({}) == 1, timeout_s=5, failure=lambda: "no position was stored"
        )
    assert points_available(work.db, now=system_clock()) == {"points": 990}


def test_it_resumes_where_it_stopped(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    earn(work.db, range(1, 10))
    with following(work):
        wait_for_projection(work.db)
    earn(work.db, range(5, 20))  # while nobody follows
    monkeypatch.setattr(projection, "rebuild", lambda *_, **__: pytest.fail("it was rebuilt instead"))
    with following(work):
        wait_for_projection(work.db)


def test_a_lost_position_leads_to_a_rebuild(work: Work) -> None:
    earn(work.db, range(1, 10))
    with following(work):
        wait_for_projection(work.db)
    work.db.positions.update_one({"_id": "wallets"}, {"$set": {"token": {"_data": "82"}}})
    earn(work.db, range(5, 20))
    with following(work) as ended:
        wait_until(lambda: bool(ended), timeout_s=15, failure=lambda: "the lost position was not noticed")
    assert isinstance(ended[0], PyMongoError)
    assert work.db.positions.count_documents({}) == 0
    with following(work):  # the worker starts it again
        wait_for_projection(work.db)


def test_a_later_term_is_not_undone(work: Work) -> None:
    earn(work.db, range(1, 10))
    work.db.positions.insert_one({"_id": "wallets", "term": work.turn.term + 1, "token": None})
    with following(work) as ended:
        wait_until(lambda: bool(ended), timeout_s=15, failure=lambda: "it went on under an old term")
    assert isinstance(ended[0], LeaseLost)


def test_the_seal_job_seals_everything_and_the_ledger_verifies(work: Work) -> None:
    seal = SealEveryMinute()
    earn(work.db, range(1, 30))
    rebuild(work.db)
    seal(work, system_clock())
    seal(work, system_clock())  # nothing new
    earn(work.db, range(20, 40))
    rebuild(work.db)
    seal(work, system_clock())
    found = verify(work.db, seal_key=seal_key(work.settings).public_key())
    assert (found.defects, found.seals, found.sealed_entries) == ([], 2, found.entries)
    # Another process, that knows nothing, goes on from the seals.
    earn(work.db, range(1, 3))
    rebuild(work.db)
    SealEveryMinute()(work, system_clock())
    assert verify(work.db, seal_key=seal_key(work.settings).public_key()).sealed_entries == found.entries + 2


def test_every_finished_day_gets_the_file_of_its_last_seal(work: Work) -> None:
    seal = SealEveryMinute()
    for day, hour in ((0, 9), (0, 23), (2, 1), (3, 0)):
        at = MIDNIGHT + timedelta(days=day, hours=hour)
        earn(work.db, range(1, 4), at=at)
        rebuild(work.db)
        seal(replace(work, clock=lambda at=at: at), at)  # type: ignore[misc]
    today = replace(work, clock=lambda: MIDNIGHT + timedelta(days=3, hours=1))
    write_daily_files(today, MIDNIGHT)
    folder = work.settings.storage_path / "seals"
    assert sorted(path.name for path in folder.iterdir()) == ["2026-02-02.json", "2026-02-04.json"]
    written = json.loads((folder / "2026-02-02.json").read_text())
    assert (written["number"], written["sealed_at"]) == (2, "2026-02-02T23:00:00.000Z")
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(written["public_key"]))
    key.verify(bytes.fromhex(written["signature"]), bytes.fromhex(written["hash"]))
    stored = work.db.seals.find_one({"_id": 2})
    assert stored is not None
    assert bytes(stored["hash"]).hex() == written["hash"]
    assert len(struct.unpack(f">{written['entries']}q", stored["entries"])) == 3
    before = (folder / "2026-02-04.json").stat().st_mtime_ns
    write_daily_files(today, MIDNIGHT)  # again: nothing to do
    assert (folder / "2026-02-04.json").stat().st_mtime_ns == before
    write_daily_files(replace(work, clock=lambda: MIDNIGHT + timedelta(days=5)), MIDNIGHT)
    assert (folder / "2026-02-05.json").exists()


def test_jobs_say_how_they_are(database: Mongo) -> None:
    now = system_clock()
    assert {job.state for job in list_jobs(database, now=now)} == {"waiting"}
    record = {"term": 1, "holder": "box1:1:a", "runs": 3, "last_started_at": now, "last_finished_at": now}
    database.jobs.insert_many(
        [
            {"_id": "projection", "last_status": "running", "lag": 0.2, **record},
            {"_id": "ledger_seal", "last_status": "failed", "last_error": "why", "next_run_at": now, **record},
            {"_id": "seal_file", "last_status": "ok", "next_run_at": now - timedelta(hours=1), **record},
            {"_id": "sweep_files", "last_status": "ok", "next_run_at": now + timedelta(hours=1), **record},
        ]
    )
    states = {job.name: job.state for job in list_jobs(database, now=now)}
    assert {name: state for name, state in states.items() if state != "waiting"} == {
        "projection": "ok",
        "ledger_seal": "failed",
        "seal_file": "late",
        "sweep_files": "ok",
    }
    late = {job.name: job.state for job in list_jobs(database, now=now + timedelta(minutes=3))}
    assert late["projection"] == "late"


def test_a_failing_job_is_tried_again_within_its_period(work: Work) -> None:
    attempts: list[float] = []

    def fail_twice(work: Work, slot: datetime) -> None:
        attempts.append(time.monotonic())
        if len(attempts) < 3:
            raise OSError("the disk is full")

    def record() -> dict[str, Any]:
        return work.db.jobs.find_one({"_id": "job"}) or {}

    work.turn.lease.release()
    job = PeriodicJob("job", "Tests.", timedelta(days=1), fail_twice)
    worker = Worker(work.db, work.settings, [job], lease_seconds=3, renew_seconds=0.2)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        wait_until(lambda: record().get("last_status") == "failed", timeout_s=5, failure=lambda: f"{record()}")
        assert record()["last_error"] == "OSError: the disk is full"
        assert record()["next_run_at"] < system_clock() + timedelta(seconds=3)
        wait_until(lambda: record()["last_status"] == "ok", timeout_s=20, failure=lambda: f"{record()}")
    finally:
        worker.stop()
        thread.join(timeout=10)
    assert not thread.is_alive()
    assert (record()["last_error"], record()["runs"], len(attempts)) == (None, 3, 3)
