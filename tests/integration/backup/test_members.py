"""Three members: who is copied, and elections in the middle of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError
from pymongo.write_concern import WriteConcern

from loyalty.backup import physical
from loyalty.backup.manifest import read_catalogue
from loyalty.backup.members import Standing, in_order, standings
from loyalty.backup.oplog import Diverged, archive_log
from loyalty.backup.settings import Settings
from loyalty.backup.source import Facts
from tests.integration.backup.conftest import Site
from tests.integration.backup.test_source import first_line, is_locked, start_guard
from tests.servers import Member, ReplicaSet, wait_until


@pytest.fixture(scope="module")
def replica_set(servers_directory: Path) -> Iterator[ReplicaSet]:
    members = ReplicaSet(servers_directory / "backup-set")
    try:
        members.start()
        yield members
    finally:
        members.stop()


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def site(tmp_path: Path, replica_set: ReplicaSet) -> Site:
    for member in replica_set.members:
        if not member.is_running:
            member.start()
    replica_set.wait_until_whole()
    return Site(tmp_path / "host", replica_set.members, secondary_lock_seconds=60)


def connect(replica_set: ReplicaSet) -> MongoClient[dict[str, Any]]:
    return MongoClient(replica_set.uri, serverSelectionTimeoutMS=30_000, w="majority")


class Writer:
    """Writes one number after the other, and knows which were acknowledged by a majority."""

    def __init__(self, replica_set: ReplicaSet, collection: str) -> None:
        self.acknowledged: list[int] = []
        self._replica_set = replica_set
        self._collection = collection
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Writer:
        self._thread.start()
        wait_until(lambda: len(self.acknowledged) > 20, timeout_s=30, failure=lambda: "nothing is written")
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        with connect(self._replica_set) as client:
            while not self._over.is_set():
                client.shop[self._collection].replace_one({"_id": number}, {"_id": number}, upsert=True)
                self.acknowledged.append(number)
                number += 1

    def wait_for_more(self) -> None:
        """Until something is acknowledged that was not when this was called."""
        known = len(self.acknowledged)
        wait_until(lambda: len(self.acknowledged) > known + 5, timeout_s=60, failure=lambda: "nothing is written")


def archived(site: Site, collection: str) -> list[Any]:
    found = set()
    for piece in read_catalogue(site.target).slices:
        for entry in map(bson.decode, site.entries(piece)):
            if entry["ns"] == f"shop.{collection}" and entry["op"] == "i":
                found.add(entry["o"]["_id"])
    return sorted(found)


def archive_until(site: Site, collection: str, number: Any) -> list[str]:
    """Who gave the slices until it is archived: a secondary learns a moment later what a majority has."""
    servers: list[str] = []

    def is_archived() -> bool:
        servers.extend(piece.server for piece in archive_log(site.settings, site.target))
        return number in archived(site, collection)

    wait_until(is_archived, timeout_s=30, failure=lambda: f"{number} of {collection} is not archived")
    return servers


def reconfigure(replica_set: ReplicaSet, member: Member, **fields: object) -> None:
    with connect(replica_set) as client:
        configuration = client.admin.command("replSetGetConfig")["config"]
        for one in configuration["members"]:
            if one["host"] == member.address:
                one.update(fields)
        configuration["version"] += 1
        client.admin.command("replSetReconfig", configuration)


@contextmanager
def unhurried(replica_set: ReplicaSet) -> Iterator[None]:
    """Meanwhile a primary that is alone does not step down for a minute, however slow the machine is."""

    def set_timeout(milliseconds: int) -> None:
        with connect(replica_set) as client:
            configuration = client.admin.command("replSetGetConfig")["config"]
            configuration["settings"]["electionTimeoutMillis"] = milliseconds
            configuration["version"] += 1
            client.admin.command("replSetReconfig", configuration)

    set_timeout(60_000)
    try:
        yield
    finally:
        set_timeout(2000)


def stands_for_election(member: Member) -> bool:
    try:
        member.ask("replSetStepUp", timeout_s=5)
    except PyMongoError:
        return False
    return True


def test_a_secondary_is_copied_and_the_primary_only_for_want_of_one(site: Site, replica_set: ReplicaSet) -> None:
    archive = physical.full(site.settings, site.target)
    assert archive.role == "secondary"
    assert archive.server in [member.address for member in replica_set.secondaries()]
    # An incremental goes to the same member: only there the blocks are the same.
    with connect(replica_set) as client:
        client.shop.items.insert_one({})
    assert physical.incremental(site.settings, site.target).server == archive.server
    for member in replica_set.secondaries():
        found = [one for one in standings(site.settings) if one.member.address != member.address]
        assert in_order(found, most_lag_s=60)[0].role == "secondary"
    primaries = [one for one in standings(site.settings) if one.role == "primary"]
    assert in_order(primaries, most_lag_s=60) == primaries


def test_rule_6_a_hidden_member_comes_first_and_can_be_read(site: Site, replica_set: ReplicaSet) -> None:
    """The driver refuses sessions on a hidden member that is connected to directly; nothing here needs one."""
    hidden = replica_set.secondaries()[-1]
    reconfigure(replica_set, hidden, hidden=True, priority=0)
    try:
        wait_until(lambda: bool(hidden.hello().get("hidden")), timeout_s=30, failure=lambda: "the member is not hidden")
        archive = physical.full(site.settings, site.target)
        assert (archive.server, archive.role) == (hidden.address, "secondary")
        with connect(replica_set) as client:
            client.shop.hidden.insert_one({"_id": 1})
        assert set(archive_until(site, "hidden", 1)) == {hidden.address}
        assert archived(site, "hidden") == [1]
    finally:
        reconfigure(replica_set, hidden, hidden=False, priority=1)


def test_a_locked_secondary_is_unlocked_when_the_set_loses_its_primary(
    site: Site, replica_set: ReplicaSet, tmp_path: Path
) -> None:
    """A locked member cannot vote: without this, nobody could be elected until the copy is made."""
    locked, other = replica_set.secondaries()
    primary = replica_set.primary()
    reconfigure(replica_set, other, priority=0)
    guard = start_guard(locked, tmp_path, 300)
    try:
        assert first_line(guard)
        assert is_locked(locked)
        primary.kill()
        wait_until(
            lambda: bool(locked.hello().get("isWritablePrimary")), timeout_s=60, failure=lambda: "nobody can be primary"
        )
        assert not is_locked(locked)
        assert "lost its primary" in guard.communicate()[0]
    finally:
        guard.kill()
        guard.communicate()
        if not primary.is_running:
            primary.start()
        replica_set.wait_until_whole()
        reconfigure(replica_set, other, priority=1)


def test_a_secondary_that_writers_wait_for_is_locked_no_longer_than_a_primary(
    site: Site, replica_set: ReplicaSet, tmp_path: Path
) -> None:
    """Of three members one is away: without the other secondary nothing is acknowledged by a majority."""
    locked, away = replica_set.secondaries()
    guard = start_guard(locked, tmp_path, 300, primary_s=1)
    try:
        assert first_line(guard)
        away.kill()
        with connect(replica_set) as client:
            client.shop.waiting.insert_one({})
        assert not is_locked(locked)
        assert "within the 1 s" in guard.communicate()[0]
    finally:
        guard.kill()
        guard.communicate()
        away.start()


def test_no_member_follows_one_that_may_be_locked(site: Site, replica_set: ReplicaSet, tmp_path: Path) -> None:
    """Else it would stand still as well, and with it whatever a majority is to acknowledge (decision 0039)."""
    locked, follower = replica_set.secondaries()
    follower.ask({"replSetSyncFrom": locked.address})
    with connect(replica_set) as client:
        client.shop.followed.insert_one({})
        primary = replica_set.primary().address
        wait_until(
            lambda: follower.ask("replSetGetStatus").get("syncSourceHost") == primary,
            timeout_s=30,
            failure=lambda: "it goes on following a secondary",
        )
        guard = start_guard(locked, tmp_path, 300)
        try:
            assert first_line(guard)
            client.shop.followed.insert_one({})
            assert is_locked(locked)
        finally:
            guard.kill()
            guard.communicate()


def test_a_failover_during_a_full_costs_nothing_of_it(site: Site, replica_set: ReplicaSet) -> None:
    with Writer(replica_set, "full") as writer:
        begun = threading.Event()
        result: list[Any] = []
        reporting = threading.Thread(
            target=lambda: result.append(physical.full(site.settings, site.target, progress=lambda *_: begun.set()))
        )
        reporting.start()
        assert begun.wait(60)
        primary = replica_set.primary()
        primary.kill()
        reporting.join()
        writer.wait_for_more()
        primary.start()
    (archive,) = result
    assert read_catalogue(site.target).physical == (archive,)
    # The log goes on from it under the new primary, without a gap, and has all that was acknowledged since.
    replica_set.wait_until_whole()

    archive_until(site, "full", writer.acknowledged[-1])
    (span,) = read_catalogue(site.target).spans
    assert span.from_ == archive.to
    found = archived(site, "full")
    assert found == list(range(found[0], writer.acknowledged[-1] + 1))


def test_a_failover_while_the_log_is_archived_leaves_no_gap(site: Site, replica_set: ReplicaSet) -> None:
    physical.full(site.settings, site.target)
    following = subprocess.Popen(
        [sys.executable, "-m", "loyalty.backup", "--settings", str(site.path), "log", "--follow"],
        stderr=subprocess.DEVNULL,
    )
    try:
        with Writer(replica_set, "log") as writer:
            for _ in range(2):
                primary = replica_set.primary()
                primary.kill()
                writer.wait_for_more()
                primary.start()
                replica_set.wait_until_whole()
        wait_until(
            lambda: archived(site, "log")[-1:] == writer.acknowledged[-1:],
            timeout_s=60,
            failure=lambda: "what was written last is not archived",
        )
    finally:
        following.terminate()
        following.wait()
    assert archived(site, "log") == writer.acknowledged
    assert len(read_catalogue(site.target).spans) == 1
    assert len(read_catalogue(site.target).physical) == 1


def test_rule_1_what_only_one_member_has_is_not_archived_and_its_copy_is_not_believed(
    site: Site, replica_set: ReplicaSet, monkeypatch: pytest.MonkeyPatch, at_end: ExitStack
) -> None:
    """A real rollback: a primary takes a write that no other member gets, is copied, dies, and comes back to another
    history."""
    physical.full(site.settings, site.target)
    at_end.enter_context(unhurried(replica_set))
    primary = replica_set.primary()
    others = replica_set.secondaries()
    with MongoClient[dict[str, Any]](f"mongodb://{primary.address}/?directConnection=true") as client:
        lonely = client.shop.get_collection("lonely", write_concern=WriteConcern(w=1))
        lonely.find_one()
        for member in others:
            member.kill()
        lonely.insert_one({"_id": "rolled back"})  # before it notices that it is alone, and steps down
    alone = site.settings.model_copy(
        update={"members": tuple(one for one in site.settings.members if one.address == primary.address)}
    )
    archive_log(alone, site.target)

    def then_another_history(*_: Any, **__: Any) -> Any:
        """In the place of the first look for a majority: until now nobody knows."""
        monkeypatch.undo()
        primary.kill()
        for member in others:
            member.start()
        wait_until(lambda: stands_for_election(others[0]), timeout_s=30, failure=lambda: "nobody is elected")
        with connect(replica_set) as client:
            client.shop.lonely.insert_one({"_id": "kept"})
        primary.start()
        replica_set.wait_until_whole()
        return physical._with_majority(site.settings, facts[0])

    facts: list[Any] = []
    real = physical._require_majority
    monkeypatch.setattr(physical, "_with_majority", then_another_history)

    def overheard(settings: Settings, source: Standing, of_copy: Facts) -> None:
        facts.append(of_copy)
        real(settings, source, of_copy)

    monkeypatch.setattr(physical, "_require_majority", overheard)
    chains = read_catalogue(site.target).chains
    with pytest.raises(Diverged, match="rolled back after a failover"):
        physical.full(alone, site.target)
    assert read_catalogue(site.target).chains == chains
    archive_until(site, "lonely", "kept")
    assert archived(site, "lonely") == ["kept"]
    assert len(read_catalogue(site.target).spans) == 1


def test_a_member_that_was_made_anew_has_a_young_log_and_the_others_the_rest(
    site: Site, replica_set: ReplicaSet
) -> None:
    """It is asked first, being passive. No gap, and no new full, while anybody has what follows the last slice."""
    physical.full(site.settings, site.target)
    with connect(replica_set) as client:
        client.shop.young.insert_one({"_id": 1})
        archive_until(site, "young", 1)
        young = replica_set.secondaries()[0]
        reconfigure(replica_set, young, priority=0)
        client.shop.young.insert_one({"_id": 2})
        try:
            young.kill()
            shutil.rmtree(young.data)
            young.data.mkdir()
            young.start()
            replica_set.wait_until_whole()
            client.shop.young.insert_one({"_id": 3})
            assert archive_until(site, "young", 3)[0] != young.address
            client.shop.get_collection("young", write_concern=WriteConcern(w=3)).insert_one({"_id": 4})
            assert archive_until(site, "young", 4)[-1] == young.address, "by now it has what follows"
        finally:
            reconfigure(replica_set, young, priority=1)
    assert archived(site, "young") == [1, 2, 3, 4]
    assert len(read_catalogue(site.target).spans) == 1
