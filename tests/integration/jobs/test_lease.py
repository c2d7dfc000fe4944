"""One worker at a time, whatever happens to it: no slot of a job runs twice, and few are lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pymongo.errors import PyMongoError

from loyalty.infra.clock import system_clock
from loyalty.infra.mongo import Mongo, connect
from loyalty.jobs import records
from loyalty.jobs.lease import Lease, LeaseLost, Turn, holder
from loyalty.jobs.model import PeriodicJob
from loyalty.jobs.worker import _EachSlot
from tests.bounds import assert_within
from tests.relay import Relay
from tests.servers import REPOSITORY, Mongod, wait_until

PROGRAM = "tests.integration.jobs.worker_process"
SLOW_PROGRAM = "tests.integration.jobs.slow_worker_process"
LONGEST_TAKEOVER_S = 15.0
LEASE_SECONDS = 3.0  # as in worker_process.py

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(empty_database: Mongo, mongo_uri: str) -> Iterator[Start]:
    """Start a scheduler process under a node name; whatever still runs at the end is killed."""
    processes = []

    def begin(node: str, program: str = PROGRAM, uri: str = mongo_uri) -> subprocess.Popen[bytes]:
        process = run(uri, empty_database.name, node, program)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.kill()
        process.wait()


def run(uri: str, database: str, node: str, program: str = PROGRAM) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", program, uri, database, node]
    return subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)


def marks(db: Mongo) -> list[dict[str, Any]]:
    return list(db.marks.find(sort=[("slot", 1)]))


def wait_for(condition: Callable[[], bool], failure: str) -> None:
    wait_until(condition, timeout_s=20, failure=lambda: failure)


def wait_for_marks(db: Mongo, node: str, count: int) -> None:
    wait_until(
        lambda: db.marks.count_documents({"node": node}) >= count,
        timeout_s=20,
        failure=lambda: f"{node} did not work; the marks are {marks(db)}",
    )


def assert_no_slot_ran_twice(db: Mongo) -> None:
    twice = {slot: count for slot, count in Counter(mark["slot"] for mark in marks(db)).items() if count > 1}
    assert twice == {}


def test_two_processes_one_works(empty_database: Mongo, start: Start) -> None:
    first = start("a")
    wait_for_marks(empty_database, "a", 1)
    start("b")
    wait_for_marks(empty_database, "a", 4)
    assert {mark["node"] for mark in marks(empty_database)} == {"a"}
    before = time.monotonic()
    first.terminate()
    assert first.wait(timeout=10) == 0
    wait_for_marks(empty_database, "b", 2)
    assert_within(LEASE_SECONDS + 1, time.monotonic() - before, "taking over a lease that was released")
    assert_no_slot_ran_twice(empty_database)
    slots = [mark["slot"] for mark in marks(empty_database)]
    assert max(later - earlier for earlier, later in pairwise(slots)) <= timedelta(seconds=2)


def test_kill_9_of_the_holder(empty_database: Mongo, start: Start) -> None:
    first = start("a")
    wait_for_marks(empty_database, "a", 2)
    start("b")
    time.sleep(1)  # the second one has slots in which it could run wrongly
    first.kill()
    killed = time.monotonic()
    wait_for_marks(empty_database, "b", 3)
    assert_within(LEASE_SECONDS + 6, time.monotonic() - killed)
    assert_no_slot_ran_twice(empty_database)
    terms = {mark["node"]: mark["term"] for mark in marks(empty_database)}
    assert terms == {"a": 1, "b": 2}


def test_a_frozen_holder_wakes_up_without_the_lease(empty_database: Mongo, start: Start) -> None:
    first = start("a")
    wait_for_marks(empty_database, "a", 2)
    start("b")
    time.sleep(1)  # the second one has slots in which it could run wrongly
    first.send_signal(signal.SIGSTOP)
    wait_for_marks(empty_database, "b", 2)
    first.send_signal(signal.SIGCONT)
    wait_for_marks(empty_database, "b", 5)
    assert_no_slot_ran_twice(empty_database)
    last_of_a = max(mark["slot"] for mark in marks(empty_database) if mark["node"] == "a")
    first_of_b = min(mark["slot"] for mark in marks(empty_database) if mark["node"] == "b")
    assert last_of_a < first_of_b


def test_frozen_in_the_middle_of_a_job_its_late_writes_are_refused(
    empty_database: Mongo, start: Start, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the lease of a real site: the other takes over within 15 s, and the period has run once in the record."""
    db = empty_database
    first = start("a", SLOW_PROGRAM)
    wait_for_marks(db, "a", 1)
    start("b", SLOW_PROGRAM)
    first.send_signal(signal.SIGSTOP)
    frozen = time.monotonic()
    wait_for_marks(db, "b", 1)
    took = time.monotonic() - frozen
    with capsys.disabled():
        print(f"\nScheduler, frozen in a job: taken over after {took:.1f} s")
    assert_within(LONGEST_TAKEOVER_S, took)
    record = db.jobs.find_one({"_id": "slow"})
    first.send_signal(signal.SIGCONT)
    db.signals.insert_one({"_id": "a"})
    wait_for(lambda: db.ends.count_documents({"node": "a"}) == 1, "the first process did not end its job")
    # It wrote, and says that it has written; now it writes how the run ended, before its next look at the lease.
    first.terminate()
    first.wait(timeout=20)
    assert db.jobs.find_one({"_id": "slow"}) == record, "a late write was let in"
    db.signals.insert_one({"_id": "b"})
    wait_for(lambda: (db.jobs.find_one({"_id": "slow"}) or {})["last_status"] == "ok", "the second did not end its job")
    after = db.jobs.find_one({"_id": "slow"}) or {}
    assert (after["term"], after["items"], after["slot"]) == (2, 1, marks(db)[0]["slot"])
    assert [mark["node"] for mark in marks(db)] == ["a", "b"]


def test_cut_off_from_the_database_the_holder_stops_and_another_goes_on(
    empty_database: Mongo, mongod: Mongod, start: Start
) -> None:
    """A partition: only the holder's way to the database is closed, and nothing tells it so."""
    with Relay(mongod.port) as relay:
        first = start("a", PROGRAM, f"mongodb://127.0.0.1:{relay.port}/?directConnection=true")
        wait_for_marks(empty_database, "a", 2)
        start("b")
        time.sleep(1)  # the second one has slots in which it could run wrongly
        relay.cut()
        cut = time.monotonic()
        wait_for_marks(empty_database, "b", 3)
        assert_within(LEASE_SECONDS + 6, time.monotonic() - cut)
        relay.mend()
        wait_for_marks(empty_database, "b", 6)
        assert first.poll() is None
    assert_no_slot_ran_twice(empty_database)


def test_time_is_what_the_database_says(empty_database: Mongo, monkeypatch: pytest.MonkeyPatch) -> None:
    """So periods are the same on all hosts, however wrong the clock of one is."""
    monkeypatch.setattr("loyalty.jobs.lease.system_clock", lambda: system_clock() + timedelta(hours=1))
    lease = Lease(empty_database, "jobs", node="a")
    assert lease.now() > system_clock() + timedelta(minutes=59)  # nothing better is known before the first time
    assert lease.acquire()
    for _ in range(2):
        there = empty_database.client.admin.command("hello")["localTime"].replace(tzinfo=timezone.utc)
        assert abs(lease.now() - there) < timedelta(milliseconds=500)
        assert lease.acquire()


def test_a_job_is_woken_when_its_period_begins_by_the_clock_that_counts() -> None:
    for wrong_by in (timedelta(hours=-5), timedelta(), timedelta(minutes=7, seconds=31)):
        present = JOB.slot(NOW) + timedelta(minutes=59, seconds=58)
        at = _EachSlot(JOB, lambda present=present: present).get_next_fire_time(None, present + wrong_by)  # type: ignore[misc]
        assert timedelta(seconds=2) < at - (present + wrong_by) < timedelta(seconds=3)


def test_a_job_that_fails_while_its_process_is_to_end_is_not_recorded_in_a_dead_database(tmp_path: Path) -> None:
    """To give up on the database twice would take longer than a process has to end."""
    mongod = Mongod(tmp_path / "mongod")
    mongod.start()
    process = run(mongod.uri, "jobs", "a", SLOW_PROGRAM)
    db = connect(mongod.uri, "jobs")
    try:
        wait_for_marks(db, "a", 1)
        mongod.kill()
        process.terminate()
        assert process.wait(timeout=20) == 0
    finally:
        db.client.close()
        process.kill()
        process.wait()
        mongod.stop()


def test_the_database_goes_away_and_comes_back(tmp_path: Path) -> None:
    """Its own mongod: killed, and frozen."""
    mongod = Mongod(tmp_path / "mongod")
    mongod.start()
    process = run(mongod.uri, "jobs", "a")
    db = connect(mongod.uri, "jobs")
    try:
        wait_for_marks(db, "a", 2)
        mongod.kill()
        time.sleep(4)  # how long the database is away is the fault
        mongod.start()
        wait_for_marks(db, "a", db.marks.count_documents({}) + 2)
        mongod.freeze()
        time.sleep(5)  # likewise
        mongod.thaw()
        wait_for_marks(db, "a", db.marks.count_documents({}) + 2)
        assert_no_slot_ran_twice(db)
        mongod.kill()  # SIGTERM has to work without the database too
        process.terminate()
        assert process.wait(timeout=10) == 0
    finally:
        db.client.close()
        process.kill()
        process.wait()
        mongod.stop()


def test_terms_grow_only_when_the_lease_changes_hands(empty_database: Mongo) -> None:
    first, second = (Lease(empty_database, "jobs", node=node, seconds=1.0) for node in "ab")
    assert first.acquire()
    assert first.acquire()
    assert first.term == 1
    assert not second.acquire()
    assert not second.held()
    turn = Turn(first, first.term)
    time.sleep(1.1)  # the lease runs out by the server's clock, which no test can move
    with pytest.raises(LeaseLost):
        turn.check()
    assert second.acquire()
    assert second.term == 2
    assert not first.acquire()
    second.release()
    assert first.acquire()
    assert first.term == 3
    with pytest.raises(LeaseLost):
        turn.check()  # held again, but in another term


def test_a_lease_on_a_dead_database_is_an_error_within_its_patience(empty_database: Mongo) -> None:
    dead = connect("mongodb://127.0.0.1:1", "jobs", serves_requests=False)
    before = time.monotonic()
    with dead.client, pytest.raises(PyMongoError):
        Lease(dead, "jobs", node="a", patience_seconds=1.0).acquire()
    assert_within(3, time.monotonic() - before)


NOW = datetime(2026, 2, 1, 12, tzinfo=timezone.utc)
JOB = PeriodicJob("job", "Tests.", timedelta(hours=1), lambda work, slot: None)


def turn_of(db: Mongo, node: str, term: int) -> Turn:
    lease = Lease(db, "jobs", node=node)
    lease.term = term
    return Turn(lease, term)


def test_a_slot_is_claimed_once(empty_database: Mongo) -> None:
    db, turn = empty_database, turn_of(empty_database, "a", 1)
    slot = JOB.slot(NOW)
    assert records.claim(db, JOB, slot=slot, now=NOW, turn=turn)
    records.finish(db, JOB, slot=slot, now=NOW, turn=turn, error=None, next_run_at=NOW)
    assert not records.claim(db, JOB, slot=slot, now=NOW, turn=turn)
    assert not records.claim(db, JOB, slot=slot - JOB.every, now=NOW, turn=turn)
    assert records.claim(db, JOB, slot=slot + JOB.every, now=NOW + JOB.every, turn=turn)


def test_a_slot_that_failed_or_died_is_claimed_again(empty_database: Mongo) -> None:
    db, slot = empty_database, JOB.slot(NOW)
    first, second = turn_of(db, "a", 1), turn_of(db, "b", 2)
    assert records.claim(db, JOB, slot=slot, now=NOW, turn=first)
    assert records.claim(db, JOB, slot=slot, now=NOW, turn=second)  # the first one died
    records.finish(db, JOB, slot=slot, now=NOW, turn=first, error=None, next_run_at=NOW)  # no, it was only frozen
    assert db.jobs.find_one({"_id": "job"})["last_status"] == "running"  # type: ignore[index]
    records.finish(db, JOB, slot=slot, now=NOW, turn=second, error="why", next_run_at=NOW)
    assert not records.claim(db, JOB, slot=slot, now=NOW, turn=first)
    assert records.claim(db, JOB, slot=slot, now=NOW, turn=second)


def test_a_clock_that_was_wrong_does_not_stop_a_job(empty_database: Mongo) -> None:
    db, turn = empty_database, turn_of(empty_database, "a", 1)
    future = NOW + timedelta(days=3650)
    assert records.claim(db, JOB, slot=JOB.slot(future), now=future, turn=turn)
    records.finish(db, JOB, slot=JOB.slot(future), now=future, turn=turn, error=None, next_run_at=future)
    assert records.claim(db, JOB, slot=JOB.slot(NOW), now=NOW, turn=turn)


def test_periods_begin_at_the_epoch() -> None:
    assert JOB.slot(NOW + timedelta(minutes=59)) == NOW
    assert PeriodicJob("d", "", timedelta(days=1), JOB.run).slot(NOW) == NOW.replace(hour=0)


def test_everybody_can_see_who_holds_the_lease(empty_database: Mongo) -> None:
    assert holder(empty_database, "jobs") is None
    lease = Lease(empty_database, "jobs", node="box1", seconds=60)
    assert lease.acquire()
    assert holder(empty_database, "jobs") == lease.holder
    lease.release()
    assert holder(empty_database, "jobs") is None
