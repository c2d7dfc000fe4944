"""The log of a replica set of one: slices that join, and every way in which they might not."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.timestamp import Timestamp
from msgspec.structs import replace
from pymongo import MongoClient
from pymongo.errors import ExecutionTimeout

from loyalty.backup import oplog, physical
from loyalty.backup.errors import BackupError
from loyalty.backup.following import archive_what_is_new
from loyalty.backup.manifest import (
    Archive,
    ClusterTime,
    log_leftovers,
    read_catalogue,
    write_manifest,
)
from loyalty.backup.oplog import Diverged, Gap, archive_log
from loyalty.backup.records import alarms, runs
from loyalty.backup.sealed import Damaged
from tests.integration.backup.conftest import Site
from tests.servers import Mongod, wait_until


def write(member: Mongod, *numbers: int) -> None:
    """One entry of the log for each number."""
    with member.connect() as client:
        for number in numbers:
            client.shop.visits.insert_one({"n": number})


def numbers(site: Site, *slices: Archive) -> list[int]:
    """What was inserted into shop.visits, by the slices, each entry once."""
    found: dict[Timestamp, int] = {}
    for piece in slices:
        for entry in map(bson.decode, site.entries(piece)):
            if entry["ns"] == "shop.visits" and entry["op"] == "i":
                found[entry["ts"]] = entry["o"]["n"]
    return [found[moment] for moment in sorted(found, key=lambda one: (one.time, one.inc))]


@pytest.fixture
def begun(site: Site, lone_member: Mongod) -> Iterator[Site]:
    """A site with a full, so that the log has something to follow."""
    physical.full(site.settings, site.target)
    yield site
    with lone_member.connect() as client:
        client.drop_database("shop")


def test_slices_hold_every_entry_after_the_full_and_join(begun: Site, lone_member: Mongod) -> None:
    (full,) = read_catalogue(begun.target).physical
    write(lone_member, *range(5))
    (first,) = archive_log(begun.settings, begun.target)
    write(lone_member, *range(5, 9))
    (second,) = archive_log(begun.settings, begun.target)
    assert first.from_ == full.to
    assert second.from_ == first.to
    assert second.predecessor == first.id
    for piece, before in ((first, full), (second, first)):
        entries = begun.entries(piece)
        assert len(entries) == piece.entries
        assert sum(map(len, entries)) == piece.bytes
        assert hashlib.sha256(entries[0]).hexdigest() == before.last_sha256
        assert hashlib.sha256(entries[-1]).hexdigest() == piece.last_sha256
        assert ClusterTime.of(bson.decode(entries[-1])["ts"]) == piece.to
    assert numbers(begun, first, second) == list(range(9))
    assert len(read_catalogue(begun.target).spans) == 1


def test_nothing_new_makes_no_slice(begun: Site, lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        client.admin.command("setParameter", 1, writePeriodicNoops=False)
        try:
            archive_log(begun.settings, begun.target)
            assert archive_log(begun.settings, begun.target) == []
        finally:
            client.admin.command("setParameter", 1, writePeriodicNoops=True)


def test_a_long_log_is_cut_into_slices_that_join(begun: Site, lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        for _ in range(6):
            client.shop.visits.insert_many([{"n": number, "noise": os.urandom(2000)} for number in range(4000)])
    slices = archive_log(begun.settings, begun.target, slice_bytes=20 << 20)
    assert len(slices) > 1
    assert len(numbers(begun, *slices)) == 24_000
    (span,) = read_catalogue(begun.target).spans
    assert len(span.slices) == len(slices)


def test_rule_4_a_large_transaction_split_over_several_entries_is_whole(begun: Site, lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        client.shop.create_collection("blobs")
        with client.start_session() as session, session.start_transaction():
            for number in range(20):
                client.shop.blobs.insert_one({"n": number, "blob": os.urandom(1 << 20)}, session=session)
    slices = archive_log(begun.settings, begun.target, slice_bytes=5 << 20)
    entries = [bson.decode(entry) for piece in slices for entry in begun.entries(piece)[1:]]
    parts = [entry for entry in entries if entry["op"] == "c" and "applyOps" in entry["o"]]
    assert len(parts) > 1
    assert [part["o"].get("partialTxn", False) for part in parts] == [True] * (len(parts) - 1) + [False]
    inserted = [operation["o"]["n"] for part in parts for operation in part["o"]["applyOps"]]
    assert inserted == list(range(20))


def test_rule_7_a_transaction_that_stays_open_holds_up_no_comparison(begun: Site, lone_member: Mongod) -> None:
    """What the server itself would compare by, dbHash, waits for it. The wallets are read as of a moment instead."""
    with lone_member.connect() as client:
        client.loyalty.wallets.insert_one({"_id": 1, "program": "main", "sequence": 3, "wallets": {}})
        with client.start_session() as session, session.start_transaction():
            client.loyalty.wallets.update_one({"_id": 1}, {"$set": {"sequence": 4}}, session=session)
            with pytest.raises(ExecutionTimeout):
                client.loyalty.command("dbHash", maxTimeMS=300)
            (piece,) = archive_log(begun.settings, begun.target)
            assert piece.holdings is not None
            assert piece.holdings.entries == 3
        client.drop_database("loyalty")


def test_without_a_full_there_is_nothing_to_follow(site: Site) -> None:
    with pytest.raises(Gap, match="There is no full"):
        archive_log(site.settings, site.target)


def test_the_first_run_takes_the_full_that_is_missing(site: Site, lone_member: Mongod) -> None:
    archive_what_is_new(site.settings, site.target)
    write(lone_member, 1)
    assert numbers(site, *archive_what_is_new(site.settings, site.target)) == [1]
    assert [(run.kind, run.ok) for run in runs(site.target)] == [
        ("log", False),
        ("full", True),
        ("log", True),
        ("log", True),
    ]
    assert alarms(site.target) == {}


def test_rule_1_a_log_that_has_dropped_what_was_archived_last_is_a_gap(begun: Site, lone_member: Mongod) -> None:
    write(lone_member, 0)
    archive_log(begun.settings, begun.target)
    write(lone_member, 1)
    rolled_over(lone_member)
    with pytest.raises(Gap, match=r"dropped.*Take a new full"):
        archive_log(begun.settings, begun.target)
    write(lone_member, 2)
    archive_what_is_new(begun.settings, begun.target)
    write(lone_member, 3)
    (piece,) = archive_what_is_new(begun.settings, begun.target)
    catalogue = read_catalogue(begun.target)
    assert len(catalogue.physical) == 2
    assert len(catalogue.spans) == 2
    assert catalogue.spans[1].from_ == catalogue.physical[1].to
    assert numbers(begun, piece) in ([2, 3], [3])  # the full ends with the first, or with a no-op after it
    assert "log" not in alarms(begun.target)


def rolled_over(member: Mongod) -> None:
    """Let the log forget all but its newest entry, as it does when it is full. A lab's own log never comes to that."""
    with_log(member, lambda log: log.delete_many({"ts": {"$lt": newest(log)["ts"]}}))


def with_log(member: Mongod, change: Any) -> None:
    """Change the log of a member that is not in its set meanwhile."""
    member.stop()
    alone = [part for part in member.command() if part not in ("--replSet", "loyalty")]
    with (member.directory / "alone.log").open("ab") as log:
        process = subprocess.Popen(alone, stdout=log, stderr=log)
    try:
        with MongoClient[dict[str, Any]]("127.0.0.1", member.port, directConnection=True) as client:
            wait_until(lambda: bool(client.admin.command("ping")), timeout_s=30, failure=lambda: "it does not answer")
            change(client.local["oplog.rs"])
    finally:
        process.terminate()
        process.wait()
        member.start()


def newest(log: Any) -> Any:
    return log.find_one(sort=[("$natural", -1)])


def test_rule_1_another_entry_in_the_place_of_the_last_archived_is_a_divergence(
    begun: Site, lone_member: Mongod
) -> None:
    """What a rollback leaves behind: the same moment, other content."""
    write(lone_member, 1)
    (piece,) = archive_log(begun.settings, begun.target)
    rewrite_last(begun, piece, "0" * 64)
    with pytest.raises(Diverged, match="rolled back or restored"):
        archive_log(begun.settings, begun.target)
    write(lone_member, 2)
    archive_what_is_new(begun.settings, begun.target)
    assert len(read_catalogue(begun.target).physical) == 2


def rewrite_last(site: Site, piece: Archive, digest: str) -> None:
    write_manifest(site.target, replace(piece, last_sha256=digest))


def test_rule_1_an_entry_that_the_history_does_not_have_is_a_divergence(begun: Site, lone_member: Mongod) -> None:
    """The last archived entry was rolled back, and nothing stands in its place: what follows is another history."""
    write(lone_member, 1)
    (piece,) = archive_log(begun.settings, begun.target)
    write(lone_member, 2)
    with_log(lone_member, lambda log: log.delete_one({"ts": piece.to.timestamp}))
    with pytest.raises(Diverged):
        archive_log(begun.settings, begun.target)


def test_an_empty_database_in_the_place_of_the_archived_one_begins_no_chain(tmp_path: Path) -> None:
    """A dead disk was replaced, and a new set begun on it: what is archived stays what is restored."""
    member = Mongod(tmp_path / "member")
    member.start()
    try:
        site = Site(tmp_path / "host", [member])
        with member.connect() as client:
            client.loyalty.ledger.insert_many([{"_id": number} for number in range(10)])
        archive_what_is_new(site.settings, site.target)
        before = read_catalogue(site.target)
        member.stop()
        shutil.rmtree(member.data)
        replacement = Mongod(tmp_path / "member")
        replacement.port, replacement.address = member.port, member.address
        member = replacement
        member.start()
        with member.connect() as client:
            client.loyalty.ledger.insert_many([{"_id": number} for number in range(4)])
        with pytest.raises(physical.Lost, match=r"has 4 entries; the archive .* has 10.*--accept-loss"):
            archive_what_is_new(site.settings, site.target)
        assert read_catalogue(site.target) == before
        assert site.run("log").returncode == 3
        assert "has 4 entries" in alarms(site.target)["full"]
        taken = site.run("full", "--accept-loss", "--no-throttle")  # as after a restore
        assert taken.returncode == 0, taken.stderr
        archive_what_is_new(site.settings, site.target)
        assert alarms(site.target) == {}
        assert read_catalogue(site.target).physical[-1].counts["loyalty.ledger"] == 4
    finally:
        member.stop()


def test_a_set_whose_time_is_before_what_was_archived_is_waited_for(begun: Site, lone_member: Mongod) -> None:
    """An earlier state was restored, or a clock set back. Fulls that are taken now would be of no use to the log."""
    write(lone_member, 1)
    archive_log(begun.settings, begun.target)
    (piece,) = read_catalogue(begun.target).slices
    later = ClusterTime(piece.to.t + 3600, 1)
    write_manifest(begun.target, replace(piece, id=f"{piece.to.hex}-{later.hex}", from_=piece.to, to=later))
    with pytest.raises(BackupError, match="before what was archived last"):
        archive_what_is_new(begun.settings, begun.target)
    assert len(read_catalogue(begun.target).physical) == 1
    assert "Check the clocks" in alarms(begun.target)["log"]


def test_rule_1_a_missing_slice_is_seen_and_taken_again_while_the_log_has_it(begun: Site, lone_member: Mongod) -> None:
    for number in range(3):
        write(lone_member, number)
        archive_log(begun.settings, begun.target)
    lost = read_catalogue(begun.target).slices[1]
    begun.target.manifest(lost).unlink()
    assert len(read_catalogue(begun.target).spans) == 2
    archive_log(begun.settings, begun.target)
    (span,) = read_catalogue(begun.target).spans
    assert numbers(begun, *span.slices) == [0, 1, 2]


def test_rule_1_a_truncated_or_flipped_slice_is_noticed_when_it_is_read(begun: Site, lone_member: Mongod) -> None:
    write(lone_member, *range(50))
    (piece,) = archive_log(begun.settings, begun.target)
    path = begun.target.slice(piece)
    good = path.read_bytes()
    for position in range(0, len(good), max(1, len(good) // 100)):
        changed = bytearray(good)
        changed[position] ^= 1 << position % 8
        for content in (bytes(changed), good[:position]):
            path.write_bytes(content)
            with pytest.raises(Damaged):
                begun.entries(piece)


def test_rule_8_a_log_that_reaches_back_too_little_is_an_alarm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member = Mongod(tmp_path / "mongod")
    member.start()
    try:
        site = Site(tmp_path / "host", [member])
        wide = site.settings.model_copy(update={"log": site.settings.log.model_copy(update={"window_hours": 24})})
        for number in range(2):
            archive_what_is_new(wide, site.target)
            write(member, number)
        archive_what_is_new(wide, site.target)
        assert alarms(site.target) == {}  # everything since the set began is still there
        with_log(member, lambda log: log.delete_one({"o.msg": "initiating set"}))
        archive_what_is_new(wide, site.target)
        assert alarms(site.target) == {}  # a restored set has a young log, from which nothing was dropped
        monkeypatch.setattr(oplog, "_is_dropping", lambda client: True)  # the least size of a log is 990 MB
        archive_what_is_new(wide, site.target)
        assert "beyond what is archived" in alarms(site.target)["window"]
        archive_what_is_new(site.settings, site.target)
        assert alarms(site.target) == {}
        # While archiving fails the window shrinks: here for want of room.
        full = wide.model_copy(update={"reserve_megabytes": 1 << 40})
        write(member, 2)
        with pytest.raises(BackupError, match="GB free"):
            archive_what_is_new(full, site.target)
        assert "beyond what is archived" in (known := alarms(site.target))["window"]
        assert "GB free" in known["log"]
        member.stop()
        with pytest.raises(BackupError, match="No member"):
            archive_what_is_new(site.settings, site.target)
        assert alarms(site.target)["window"] == known["window"]  # nobody can say how it is now
    finally:
        member.stop()


def test_what_a_dead_run_left_of_a_slice_is_swept(begun: Site) -> None:
    (begun.target.log / "open.slice").write_bytes(b"x")
    (begun.target.log / ".x.json.partial").write_bytes(b"x")
    archive_log(begun.settings, begun.target)
    assert log_leftovers(begun.target) == []
    assert not (begun.target.log / "open.slice").exists()


def test_a_full_disk_ends_the_slice_and_the_next_run_goes_on(tmp_path: Path, lone_member: Mongod) -> None:
    site = Site(tmp_path / "host", [lone_member])
    small = site.settings.target
    physical.full(site.settings, site.target)
    with lone_member.connect() as client:
        client.shop.visits.insert_many([{"n": number, "noise": os.urandom(2000)} for number in range(10_000)])
    log = site.target.log
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(log)], check=True)
    try:
        done = site.run("log")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert list(log.iterdir()) == []
        assert "log" in alarms(site.target)
        subprocess.run(["mount", "-o", "remount,size=100m", str(log)], check=True)
        assert site.run("log").returncode == 0
        assert len(numbers(site, *read_catalogue(site.target).slices)) == 10_000
        assert alarms(site.target) == {}
    finally:
        subprocess.run(["umount", str(log)], check=True)
    assert small.exists()


def test_following_archives_what_happens_until_it_is_told_to_stop(begun: Site, lone_member: Mongod) -> None:
    metrics = begun.folder / "loyalty_backup.prom"
    line = [sys.executable, "-m", "loyalty.backup", "--settings", str(begun.path), "log", "--follow"]
    process = subprocess.Popen([*line, "--metrics", str(metrics)], stderr=subprocess.PIPE)
    try:
        for number in range(3):
            write(lone_member, number)
            wait_until(
                partial(_is_archived, begun, number), timeout_s=20, failure=lambda: "what was written is not archived"
            )
        assert "loyalty_backup_newest_bytes" in metrics.read_text(), "while it goes on, not when it ends"
        process.terminate()
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, said) == (0, b"")
    assert len(read_catalogue(begun.target).spans) == 1


def _is_archived(site: Site, number: int) -> bool:
    return number in numbers(site, *read_catalogue(site.target).slices)


_MEMORY = """
import re, sys
from pathlib import Path
from loyalty.backup.cli import main
try:
    main()
finally:  # resource.getrusage would tell of the parent too
    status = Path("/proc/self/status").read_text()
    sys.stderr.write("\\n" + re.search(r"VmHWM:\\s+(\\d+) kB", status)[1])
"""


def test_memory_does_not_grow_with_the_log(begun: Site, lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        for _ in range(60):
            client.shop.visits.insert_many([{"noise": os.urandom(1 << 20)} for _ in range(5)])
    line = [sys.executable, "-c", _MEMORY, "--settings", str(begun.path), "log"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert sum(piece.bytes for piece in read_catalogue(begun.target).slices) > 300 << 20
    assert int(done.stderr.split()[-1]) < 200 << 10
