"""Full and incremental, of a replica set of one: what comes back, and what is left when it fails."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from loyalty.backup import physical
from loyalty.backup.errors import BackupError
from loyalty.backup.manifest import (
    Archive,
    ClusterTime,
    leftovers,
    read_catalogue,
    read_manifest,
    write_manifest,
)
from loyalty.backup.members import connect
from loyalty.backup.oplog import entry_at
from loyalty.backup.records import alarms, runs
from loyalty.backup.repository import Repository
from loyalty.backup.settings import read_secret
from loyalty.backup.source import SourceError
from loyalty.backup.target import hold
from loyalty.ops.embedded import mongod_path
from tests.integration.backup.conftest import Site
from tests.servers import Mongod, Server, free_port, wait_until


class Restored(Server):
    """A mongod alone on a restored folder."""

    def __init__(self, directory: Path, data: Path) -> None:
        super().__init__("restored", directory)
        self.data = data
        self.port = free_port()

    def command(self) -> list[str]:
        parameters = ("--setParameter", "diagnosticDataCollectionEnabled=false")
        recover = ("--setParameter", "recoverFromOplogAsStandalone=true", "--setParameter", "ttlMonitorEnabled=false")
        where = (
            "--bind_ip",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "0.25",
        )
        return [str(mongod_path()), "--dbpath", str(self.data), *where, *parameters, *recover]

    def client(self) -> MongoClient[dict[str, Any]]:
        return MongoClient("127.0.0.1", self.port, directConnection=True, serverSelectionTimeoutMS=2000)

    def is_ready(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.admin.command("ping"))
        except Exception:
            return False


def restore(site: Site, archive: Archive, folder: Path) -> Path:
    folder.mkdir()
    assert archive.chain is not None
    secret = read_secret(site.settings.passphrase_file)
    Repository(site.target.repository(archive.chain), secret).extract(archive.id, folder)
    return folder


def items(site: Site, archive: Archive, folder: Path) -> list[int]:
    """What the collection shop.items held in an archive."""
    server = Restored(folder.parent / f"{folder.name}-server", restore(site, archive, folder))
    server.start()
    try:
        with server.client() as client:
            return sorted(item["n"] for item in client.shop.items.find())
    finally:
        server.stop()


def fill(member: Mongod, *numbers: int) -> None:
    with member.connect() as client:
        client.shop.items.insert_many([{"n": number, "noise": os.urandom(2000)} for number in numbers])


@pytest.fixture(autouse=True)
def empty_shop(lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        client.drop_database("shop")
        client.shop.items.insert_one({"n": 0})


def test_a_full_and_an_incremental_are_restored_each_by_itself(site: Site, lone_member: Mongod, tmp_path: Path) -> None:
    fill(lone_member, *range(1, 3000))
    first = physical.full(site.settings, site.target)
    fill(lone_member, 3000)
    second = physical.incremental(site.settings, site.target)
    assert (first.kind, second.kind, second.chain, second.predecessor) == ("full", "incremental", first.chain, first.id)
    assert first.to < second.to
    assert second.stored_bytes < first.stored_bytes / 2
    assert first.counts["shop.items"] == 3000
    assert items(site, first, tmp_path / "first") == list(range(3000))
    assert items(site, second, tmp_path / "second") == list(range(3001))
    assert [chain.archives for chain in read_catalogue(site.target).chains] == [(first, second)]


def test_a_copy_taken_while_others_write_is_of_one_moment(site: Site, lone_member: Mongod, tmp_path: Path) -> None:
    """Each number is written to one collection and then to the other: no moment has more than one between them."""
    over = threading.Event()
    written = [0]

    def write() -> None:
        with lone_member.connect() as client:
            while not over.is_set():
                number = written[0] + 1
                client.shop.items.insert_one({"n": number, "noise": os.urandom(3000)})
                client.shop.others.insert_one({"n": number, "noise": os.urandom(3000)})
                written[0] = number

    writer = threading.Thread(target=write)
    writer.start()
    try:
        wait_until(lambda: written[0] > 500, timeout_s=60, failure=lambda: "nothing is written")
        before = written[0]
        archive = physical.full(site.settings, site.target)
        after = written[0]
    finally:
        over.set()
        writer.join()
    server = Restored(tmp_path / "server", restore(site, archive, tmp_path / "data"))
    server.start()
    try:
        with server.client() as client:
            first, second = (
                [item["n"] for item in client.shop[name].find(sort=[("n", 1)])] for name in ("items", "others")
            )
            assert client.shop.command("validate", "items", full=True)["valid"]
    finally:
        server.stop()
    assert before <= len(second) <= after + 1
    assert second == list(range(1, len(second) + 1))
    assert first in (list(range(len(second) + 1)), list(range(len(second) + 2)))


def test_rule_1_an_archive_names_the_last_entry_that_it_holds(site: Site, lone_member: Mongod) -> None:
    archive = physical.full(site.settings, site.target)
    with connect(site.settings, site.settings.members[0]) as client:
        entry = entry_at(client, archive.to)
    assert entry is not None
    assert archive.last_sha256 == hashlib.sha256(entry).hexdigest()


def test_rule_2_the_copy_of_a_primary_is_said_to_be_one(site: Site) -> None:
    """Its oplogTruncateAfterPoint has to be cleared before entries are appended: whoever restores must know."""
    assert physical.full(site.settings, site.target).role == "primary"


def test_an_incremental_where_nothing_was_written_is_the_archive_that_there_is(site: Site, lone_member: Mongod) -> None:
    with lone_member.connect() as client:
        client.admin.command("setParameter", 1, writePeriodicNoops=False)
        try:
            first = physical.full(site.settings, site.target)
            assert physical.incremental(site.settings, site.target) == first
        finally:
            client.admin.command("setParameter", 1, writePeriodicNoops=True)


def test_an_incremental_without_a_full_is_one(site: Site) -> None:
    assert physical.incremental(site.settings, site.target).kind == "full"


def test_fulls_of_one_second_each_have_a_chain(site: Site) -> None:
    """Three in a row, while nothing is written."""
    taken = [physical.full(site.settings, site.target) for _ in range(3)]
    assert len({archive.id for archive in taken}) == 3
    assert sorted(chain.id for chain in read_catalogue(site.target).chains) == sorted(one.chain or "" for one in taken)


def test_rule_8_another_version_of_the_server_begins_a_new_chain(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the chain holds was written by another version: its blocks are no ground to build on."""
    first = physical.full(site.settings, site.target)
    path = site.target.manifest(first)
    path.unlink()

    write_manifest(site.target, replace(first, server_version="5.0.1"))
    second = physical.incremental(site.settings, site.target)
    assert (second.kind, second.server_version) == ("full", first.server_version)
    assert second.chain != first.chain


def test_rule_9_the_server_has_no_cursor_for_backups(lone_member: Mongod) -> None:
    """Which is why a member is locked, and its folder copied."""
    with lone_member.connect() as client, pytest.raises(OperationFailure, match=r"Unrecognized.*\$backupCursor"):
        client.admin.aggregate([{"$backupCursor": {}}])


def test_a_member_that_cannot_be_asked_leaves_nothing_and_says_why(site: Site, lone_member: Mongod) -> None:
    staging = lone_member.data / "loyalty-backup.staging"
    staging.mkdir(exist_ok=True)
    holder = subprocess.Popen(["flock", str(staging), "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"\n")
        holder.stdin.flush()
        holder.stdout.read(1)  # cat runs, so the lock is held
        done = site.run("full")
    finally:
        holder.kill()
        holder.communicate()
    assert done.returncode == 1
    assert "Another run copies this member now" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(site.target.chains.iterdir()) == []
    assert "Another run" in alarms(site.target)["full"]
    assert [run.ok for run in runs(site.target)] == [False]
    assert site.run("full").returncode == 0
    assert alarms(site.target) == {}


def test_a_stream_that_breaks_off_leaves_no_archive(site: Site, lone_member: Mongod) -> None:
    """The connection breaks in the middle: the chain that was begun is gone, one that stands has nothing new."""
    broken = broken_after(site, 500_000)
    for attempt in (physical.full, physical.incremental):
        with pytest.raises(BackupError):
            attempt(broken.settings, site.target)
        assert list(site.target.chains.iterdir()) == []
    first = physical.full(site.settings, site.target)
    fill(lone_member, 1)
    with pytest.raises(SourceError):
        physical.incremental(broken.settings, site.target)
    assert read_catalogue(site.target).physical == (first,)
    assert first.chain is not None
    repository = Repository(site.target.repository(first.chain), read_secret(site.settings.passphrase_file))
    assert list(repository.archives()) == [first.id]


def broken_after(site: Site, size: int) -> Site:
    """The same backup host, whose member's stream ends after `size` bytes as if all were well."""
    (member,) = site.settings.members
    program = (
        "import subprocess, sys\n"
        "source = subprocess.Popen(sys.argv[2:], stdout=subprocess.PIPE)\n"
        "sys.stdout.buffer.write(source.stdout.read(int(sys.argv[1])))\n"
        "source.kill()\n"
    )
    cut = member.model_copy(update={"command": (sys.executable, "-c", program, str(size), *member.command)})
    other = object.__new__(Site)
    other.settings = site.settings.model_copy(update={"members": (cut,)})
    return other


def test_the_lock_of_the_target_keeps_a_second_run_out(site: Site) -> None:
    with hold(site.target, "A test"):
        done = site.run("full")
    assert done.returncode == 1
    assert "A test (process" in done.stderr
    assert alarms(site.target) == {}


def test_what_a_dead_run_left_is_swept_by_the_next(site: Site) -> None:
    dead = site.target.chains / "20200101T000000Z"
    (dead / "repository").mkdir(parents=True)
    archive = physical.full(site.settings, site.target)
    assert [path.name for path in site.target.chains.iterdir()] == [archive.chain]
    assert leftovers(site.target) == []


def test_a_full_disk_leaves_what_there_was_and_is_said(tmp_path: Path, lone_member: Mongod) -> None:
    """A real small disk as the target."""
    fill(lone_member, *range(1, 12_000))  # 24 MB that nothing compresses
    site = Site(tmp_path / "host", [lone_member])
    small = site.settings.target
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "tmpfs", str(small)], check=True)
    try:
        assert site.run("init").returncode == 0
        done = site.run("full")
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert list((small / "chains").iterdir()) == []
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        assert "full" in alarms(site.target)
        assert site.run("full").returncode == 0
        (first,) = read_catalogue(site.target).physical
        fill(lone_member, *range(12_000, 20_000))
        used = sum(path.stat().st_size for path in small.rglob("*") if path.is_file()) >> 20
        subprocess.run(["mount", "-o", f"remount,size={used + 12}m", str(small)], check=True)
        assert site.run("incremental").returncode == 1
        assert read_catalogue(site.target).physical == (first,)
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        assert site.run("incremental").returncode == 0
        assert len(read_catalogue(site.target).physical) == 2
        assert items(site, first, tmp_path / "first") == list(range(12_000))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_the_program_says_what_it_took(site: Site) -> None:
    assert site.run("full", "--json").returncode == 0
    listed = site.run("list").stdout
    (archive,) = read_catalogue(site.target).physical
    assert archive.id in listed
    assert read_manifest(site.target.manifest(archive)) == archive
    status = site.run("status")
    assert status.returncode == 0
    assert re.search(rf"full .* ago, {archive.id}, locked {archive.locked_s:.2f} s\n", status.stdout)
    assert f'loyalty_backup_newest_locked_seconds{{kind="full"}} {archive.locked_s}\n' in site.run("metrics").stdout
    assert archive.locked_s > 0
    assert archive.to > ClusterTime(0, 0)
