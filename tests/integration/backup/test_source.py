"""The program on a member's side: what it sends, and that it never leaves the member locked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient

from tests.integration.backup.conftest import SOURCE, source_command
from tests.servers import Member, Mongod, wait_until

GUARDING = """
import os, sys, time
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
sys.dont_write_bytecode = True
loader = SourceFileLoader("source", sys.argv[1])
source = module_from_spec(spec_from_loader("source", loader))
loader.exec_module(source)
member = source.Member("127.0.0.1", int(sys.argv[2]), None, None, None)
longest_s, primary_s = map(float, sys.argv[4:])
guardian = source.Guardian(member, Path(sys.argv[3]), {"primary": primary_s, "secondary": longest_s})
guardian.lock()
print(guardian.pid, flush=True)
sys.stdin.read()
try:
    print(guardian.unlock())
except source.Failed as error:
    print(error)
"""


def ask(member: Mongod, **request: object) -> subprocess.CompletedProcess[bytes]:
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(source_command(member), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()
        with process.stdin, process.stdout:
            sent = process.stdout.read()
            code = process.wait(120)
        errors.seek(0)
        return subprocess.CompletedProcess(process.args, code, sent, errors.read())


def is_locked(member: Member) -> bool:
    return bool(member.ask("currentOp", timeout_s=5).get("fsyncLock"))


def unlocked_within(member: Mongod, seconds: float) -> float:
    began = time.monotonic()
    wait_until(lambda: not is_locked(member), timeout_s=seconds, failure=lambda: "the member is still locked")
    return time.monotonic() - began


@pytest.fixture
def guard(lone_member: Mongod, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A program that holds the lock, for 60 s at most, until its stdin closes."""
    process = start_guard(lone_member, tmp_path, 60)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def start_guard(
    member: Member, folder: Path, longest_s: float, *, primary_s: float | None = None
) -> subprocess.Popen[str]:
    """A program that holds the lock until its stdin closes; `longest_s` at most, and as a primary `primary_s`."""
    bounds = [str(longest_s), str(primary_s or longest_s)]
    process = subprocess.Popen(
        [sys.executable, "-c", GUARDING, str(SOURCE), str(member.port), str(folder / "locked"), *bounds],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def test_look_says_what_there_is(lone_member: Mongod) -> None:
    answer = json.loads(ask(lone_member, do="look").stdout)
    assert answer["role"] == "primary"
    assert answer["bytes"] > 100_000
    assert answer["free_bytes"] > answer["bytes"]
    assert answer["clones"] in (True, False)


def test_a_copy_says_first_what_it_is_and_then_sends_exactly_that(lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        client.shop.items.insert_many([{"n": number} for number in range(500)])
        client.loyalty.seals.insert_one({"_id": 7, "hash": b"\xab" * 32})
        done = ask(lone_member, do="physical", primary_lock_seconds_max=20)
        assert done.returncode == 0, done.stderr
        log = client.get_database("local", codec_options=CodecOptions(RawBSONDocument))["oplog.rs"]
        top: Any = next(log.find(sort=[("$natural", -1)], limit=1))
    stream = io.BytesIO(done.stdout)
    with tarfile.open(fileobj=stream, mode="r|") as tar:
        first = tar.next()
        assert first is not None
        assert first.name == "_facts.json"
        facts = json.load(tar.extractfile(first) or io.BytesIO())
        rest = {member.name: member for member in tar}
    assert facts["stream_bytes"] == len(done.stdout) - 512 - (first.size + 511) // 512 * 512
    assert facts["counts"]["shop.items"] == 500
    assert facts["seal"] == {"number": 7, "hash": "ab" * 32}
    assert (facts["role"], facts["replica_set"], facts["host"]) == ("primary", "loyalty", lone_member.address)
    assert 0 < facts["locked_s"] < 20
    if facts["top"] == [top["ts"].time, top["ts"].inc]:  # no operation of the server's own came after
        assert facts["top_sha256"] == hashlib.sha256(top.raw).hexdigest()
    assert facts["fcv"] == ".".join(facts["server_version"].split(".")[:2])
    assert {"WiredTiger", "WiredTiger.wt", "WiredTiger.turtle", "journal", "storage.bson"} <= rest.keys()
    assert "mongod.lock" not in rest
    assert not any(name.startswith(("diagnostic.data", "loyalty-backup")) for name in rest)
    assert any(name.startswith("journal/WiredTigerLog.") for name in rest)
    assert list((lone_member.data / "journal").glob("WiredTigerPreplog.*"))
    assert not any("Preplog" in name for name in rest), "reserved and empty"
    assert not is_locked(lone_member)
    assert list((lone_member.data / "loyalty-backup.staging").iterdir()) == []


def test_writers_wait_only_while_the_member_is_locked(lone_member: Mongod) -> None:
    """Every write of a second client succeeds while copies are made, and none waits longer than the lock."""
    over = threading.Event()
    waits = []

    def write() -> None:
        with lone_member.connect() as client:
            while not over.is_set():
                began = time.monotonic()
                client.shop.visits.insert_one({"padding": "x" * 1000})
                waits.append(time.monotonic() - began)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        done = ask(lone_member, do="physical", primary_lock_seconds_max=20)
    finally:
        over.set()
        writer.join()
    assert done.returncode == 0, done.stderr
    with tarfile.open(fileobj=io.BytesIO(done.stdout), mode="r|") as tar:
        first = tar.next()
        assert first is not None
        content = tar.extractfile(first)
        assert content is not None
        facts = json.load(content)
    assert len(waits) > 20
    assert max(waits) < facts["locked_s"] + 1


def test_the_session_that_asks_does_not_yield_with_what_is_sent(lone_member: Mongod) -> None:
    """Linux schedules sessions as groups: what lowers its own must have one of its own."""
    session = Path("/proc/self/autogroup")
    before = session.exists() and session.read_text()
    assert ask(lone_member, do="physical").returncode == 0
    assert (session.exists() and session.read_text()) == before


WAITED_S = 10
"""More than a busy machine takes for a write, and much less than mongod gives a transaction that stays open (60 s)."""


def is_old(client: MongoClient[dict[str, Any]]) -> bool:
    """Whether a transaction has been open for longer than those that the lock may wait for."""
    old = {"transaction.timeOpenMicros": {"$gt": 1_000_000}}
    return bool(list(client.admin.aggregate([{"$currentOp": {"idleSessions": True}}, {"$match": old}])))


def test_rule_7_nobody_waits_for_a_transaction_that_stays_open(lone_member: Mongod) -> None:
    """The lock waits for it, and all who write then wait for the lock: so it is asked for when the other has ended."""
    with lone_member.connect() as client, ThreadPoolExecutor(1) as beside:
        client.shop.visits.insert_one({"_id": "first"})
        with client.start_session() as session, session.start_transaction():
            client.shop.visits.insert_one({"_id": "within"}, session=session)
            wait_until(lambda: is_old(client), timeout_s=30, failure=lambda: "it never was open for so long")
            copy = beside.submit(ask, lone_member, do="physical", primary_lock_seconds_max=20)
            until = time.monotonic() + 6
            while time.monotonic() < until:
                began = time.monotonic()
                client.shop.visits.insert_one({})
                assert time.monotonic() - began < WAITED_S
                time.sleep(0.05)  # between two sales: how long the other stays open is the fault
            assert not copy.done()
        assert copy.result().returncode == 0, copy.result().stderr
        client.shop.visits.delete_many({})


@pytest.mark.parametrize(
    "request_",
    [{"do": "rm"}, {},
     {"do": "physical", "primary_lock_seconds_max": 0}, {"do": "physical", "secondary_lock_seconds_max": 1e9},
     {"do": "physical", "database": "../x"}, {"do": "physical", "megabytes_per_second": -1}],
)  # by hand: a line holds what belongs together  # fmt: skip
def test_a_request_that_is_not_understood_is_refused_in_words(lone_member: Mongod, request_: dict[str, Any]) -> None:
    done = ask(lone_member, **request_)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"The request" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_stream_is_not_sent_faster_than_asked(lone_member: Mongod) -> None:
    began = time.monotonic()
    done = ask(lone_member, do="physical", primary_lock_seconds_max=20, megabytes_per_second=len_of(lone_member) / 2e6)
    assert done.returncode == 0
    assert time.monotonic() - began > 2


def len_of(member: Mongod) -> int:
    return int(json.loads(ask(member, do="look").stdout)["bytes"])


def test_a_program_that_is_killed_while_it_holds_the_lock_leaves_the_member_unlocked(
    lone_member: Mongod, guard: subprocess.Popen[str]
) -> None:
    assert first_line(guard)
    assert is_locked(lone_member)
    guard.kill()
    assert unlocked_within(lone_member, 10) < 1.5


def test_a_copy_ends_when_nobody_waits_for_it_any_more(lone_member: Mongod) -> None:
    process = subprocess.Popen(source_command(lone_member), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"do": "physical", "primary_lock_seconds_max": 20}).encode() + b"\n")
    process.stdin.flush()
    assert process.stdout.read(1)  # it sends, and waits for us to read
    process.stdin.close()
    assert process.wait(10) == 1
    process.stdout.close()
    assert list((lone_member.data / "loyalty-backup.staging").iterdir()) == []


def test_a_guardian_that_is_killed_leaves_the_member_unlocked(
    lone_member: Mongod, guard: subprocess.Popen[str]
) -> None:
    os.kill(int(first_line(guard)), signal.SIGKILL)
    assert "is unlocked" in guard.communicate()[0]
    assert not is_locked(lone_member)


def test_a_lock_ends_when_its_time_is_over(lone_member: Mongod, tmp_path: Path) -> None:
    guard = start_guard(lone_member, tmp_path, 1)
    assert first_line(guard)
    assert is_locked(lone_member)
    unlocked_within(lone_member, 5)
    assert "within the 1 s" in guard.communicate()[0]
    assert not (tmp_path / "locked").exists()


def test_the_lock_of_a_run_that_died_with_its_guardian_is_cleared_by_the_next(lone_member: Mongod) -> None:
    staging = lone_member.data / "loyalty-backup.staging"
    staging.mkdir(exist_ok=True)
    guard = start_guard(lone_member, staging, 60)
    guardian = int(first_line(guard))
    os.kill(guard.pid, signal.SIGSTOP)  # so that neither sees the other end
    os.kill(guardian, signal.SIGKILL)
    guard.kill()
    guard.communicate()
    assert is_locked(lone_member)
    (staging / "copy").mkdir()
    (staging / "copy" / "leftover").write_bytes(b"x")
    done = ask(lone_member, do="physical", primary_lock_seconds_max=20)
    assert done.returncode == 0, done.stderr
    assert b"leftover" not in done.stdout
    assert not is_locked(lone_member)


def test_only_one_run_copies_a_member_at_a_time(lone_member: Mongod) -> None:
    first = subprocess.Popen(
        source_command(lone_member), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert first.stdin is not None
    assert first.stdout is not None
    first.stdin.write(json.dumps({"do": "physical", "primary_lock_seconds_max": 20}).encode() + b"\n")
    first.stdin.flush()
    assert first.stdout.read(1)  # it sends, and waits for us to read
    assert b"Another run" in ask(lone_member, do="physical").stderr
    first.stdout.close()
    assert first.stderr is not None
    assert b"has gone" in first.stderr.read()
    first.wait()
    first.stdin.close()
    first.stderr.close()
    assert list((lone_member.data / "loyalty-backup.staging").iterdir()) == []
