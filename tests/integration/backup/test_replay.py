"""A copy and the log after it become the database of any instant, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from loyalty.backup import replay
from loyalty.backup.manifest import ClusterTime
from loyalty.backup.scratch import Client, Scratch
from loyalty.ops.embedded import mongod_path
from tests.integration.backup.history import History, make, state_of
from tests.servers import wait_until


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    directory = tmp_path_factory.mktemp("history")
    yield make(directory)
    shutil.rmtree(directory)


@pytest.fixture
def scratch(history: History, tmp_path: Path) -> Iterator[Scratch]:
    """A copy of the copy."""
    shutil.copytree(history.copy, tmp_path / "data")
    yield Scratch(mongod_path(), tmp_path / "data", tmp_path, cache_gb=0.25)
    shutil.rmtree(tmp_path / "data")


def restore(scratch: Scratch, history: History, to: ClusterTime) -> ClusterTime:
    last = replay.append(scratch, history.entries(), base=history.base, to=to)
    replay.recover(scratch, last)
    replay.detach(scratch)
    return last


@pytest.fixture(scope="module")
def restored(history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scratch]:
    """What is restored to the instant. Tests add to it, and change nothing of it."""
    directory = tmp_path_factory.mktemp("restored")
    shutil.copytree(history.copy, directory / "data")
    scratch = Scratch(mongod_path(), directory / "data", directory, cache_gb=0.25)
    assert restore(scratch, history, history.to) == history.to
    yield scratch
    shutil.rmtree(directory)


def test_rule_3_everything_is_as_it_was_at_the_instant(history: History, restored: Scratch) -> None:
    with restored.replica_set("fresh") as client:
        assert state_of(client) == history.state
        client.own.proof.insert_one({"_id": "it takes writes"})
        assert client.admin.command("replSetGetConfig")["config"]["_id"] == "fresh"
    with restored.replica_set("fresh") as client:  # and again
        assert client.own.proof.find_one({"_id": "it takes writes"})
        client.drop_database("own")


def test_rule_4_what_was_committed_is_there_and_what_was_aborted_is_not(restored: Scratch) -> None:
    """Of one entry, of several, and prepared; each fifth of the four writers' was taken back."""
    with restored.replica_set("fresh") as client:
        pairs = client.shop.pairs
        assert pairs.count_documents({"_id": {"$regex": "^large-"}}) == 5 + 10
        assert pairs.count_documents({"writer": {"$exists": True}}) == 4 * 32
        assert pairs.distinct("_id", {"_id": {"$regex": "prepared|aborted"}}) == ["prepared-committed"]
        assert not client.config.transactions.count_documents({"state": "prepared"})


def test_rule_5_users_are_as_they_were_also_one_that_was_dropped_later(restored: Scratch) -> None:
    with restored.replica_set("fresh") as client:
        assert can_log_in(client, "anna", "third")
        assert can_log_in(client, "berta", "second")
        assert not can_log_in(client, "anna", "fourth")


def test_the_second_after_has_the_harm(history: History, scratch: Scratch) -> None:
    last = ClusterTime(history.to.t + 3600, 0)
    assert restore(scratch, history, last) > history.to
    with scratch.replica_set("fresh") as client:
        assert client.shop.orders.count_documents({"state": "wrong"}) == 1000
        assert "strict" not in client.shop.list_collection_names()
        assert not can_log_in(client, "berta", "second")


def test_the_copy_alone_is_a_state_too(history: History, scratch: Scratch) -> None:
    assert restore(scratch, history, history.base) == history.base
    with scratch.replica_set("fresh") as client:
        assert client.shop.orders.count_documents({}) == 3000
        assert "log" not in client.shop.list_collection_names()
        assert can_log_in(client, "anna", "first")


def test_rule_4_a_transaction_that_was_not_committed_yet_is_not_there(history: History, scratch: Scratch) -> None:
    restore(scratch, history, history.in_transaction)
    with scratch.replica_set("fresh") as client:
        assert client.shop.pairs.count_documents({"_id": {"$regex": "^large-20"}}) == 5
        assert client.shop.pairs.count_documents({"_id": {"$regex": "^large-40"}}) == 0
        assert client.shop.pairs.count_documents({"writer": 1}) == 32


def test_rule_4_an_index_that_was_being_built_is_finished(history: History, scratch: Scratch) -> None:
    restore(scratch, history, history.in_index_build)
    with scratch.replica_set("fresh") as client:
        assert client.shop.orders.count_documents({}) == 3000

        def is_built() -> bool:
            # The catalogue lists it also while it is being built; no query may use it then.
            with suppress(OperationFailure):
                return bool(client.shop.orders.find({"state": "new"}).hint("states").to_list(1))
            return False

        wait_until(is_built, timeout_s=30, failure=lambda: "the index is not there")


def test_appending_goes_on_where_it_was_killed(history: History, scratch: Scratch) -> None:
    def cut_off() -> Iterator[bytes]:
        yield from islice(history.entries(), 2000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay.append(scratch, cut_off(), base=history.base, to=history.to)
    for _ in range(2):  # once more after it was done
        assert replay.append(scratch, history.entries(), base=history.base, to=history.to) == history.to
    replay.recover(scratch, history.to)
    replay.detach(scratch)
    with scratch.replica_set("fresh") as client:
        assert state_of(client) == history.state


def test_rule_2_a_copy_of_a_primary_names_a_point_after_which_mongod_would_cut(
    history: History, scratch: Scratch
) -> None:
    """What `append` clears, put back: mongod then removes all that was appended, and the proof is missing."""
    with scratch.standalone() as client:
        found = client.local["replset.oplogTruncateAfterPoint"].find_one()
    assert found is not None
    assert ClusterTime.of(found["oplogTruncateAfterPoint"]) <= history.base
    replay.append(scratch, history.entries(), base=history.base, to=history.to)
    with scratch.standalone() as client:
        client.local["replset.oplogTruncateAfterPoint"].insert_one(found)
    with pytest.raises(replay.ReplayError, match="not replay the log to its end"):
        replay.recover(scratch, history.to)


def test_rule_3_there_is_one_recovery_of_a_copy(history: History, scratch: Scratch) -> None:
    """What a second one leaves out was seen here: large transactions whose first part the first one had applied."""
    restore(scratch, history, history.in_transaction)
    with pytest.raises(replay.ReplayError, match="begun before"):
        replay.append(scratch, history.entries(), base=history.base, to=history.to)
    with pytest.raises(replay.ReplayError, match="begun before"):
        replay.recover(scratch, history.in_transaction)


def test_a_log_with_a_hole_after_the_copy_is_refused(history: History, scratch: Scratch) -> None:
    with pytest.raises(replay.ReplayError, match="after the end of the copy"):
        replay.append(scratch, after(history, history.base), base=history.base, to=history.to)


def test_a_log_of_another_history_is_refused(history: History, scratch: Scratch) -> None:
    def changed() -> Iterator[bytes]:
        for raw in history.entries():
            yield raw[:-2] + bytes([raw[-2] ^ 1]) + raw[-1:] if replay.time_of(raw) == history.base else raw

    with pytest.raises(replay.ReplayError, match="different histories"):
        replay.append(scratch, changed(), base=history.base, to=history.to)


def test_a_copy_that_is_not_what_its_manifest_says_is_refused(history: History, scratch: Scratch) -> None:
    base = ClusterTime(history.base.t, history.base.i + 1)
    with pytest.raises(replay.ReplayError, match="does not end at"):
        replay.append(scratch, history.entries(), base=base, to=history.to)


def after(history: History, moment: ClusterTime) -> Iterator[bytes]:
    return (raw for raw in history.entries() if replay.time_of(raw) > moment)


def can_log_in(client: Client, user: str, password: str) -> bool:
    host, port = client.address or ("", 0)
    other: Client = MongoClient(host, port, username=user, password=password, directConnection=True)
    with other:
        try:
            other.admin.command("ping")
        except OperationFailure:
            return False
        return True
