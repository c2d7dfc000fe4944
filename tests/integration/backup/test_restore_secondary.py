"""What was copied from a secondary while it applied what others wrote becomes what the primary was."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from loyalty.backup.manifest import ClusterTime, Holdings, read_catalogue
from loyalty.backup.oplog import archive_log
from loyalty.backup.physical import full
from loyalty.backup.restore import restore
from loyalty.backup.scratch import Client, Scratch
from tests.integration.backup.conftest import Site
from tests.integration.backup.history import state_of
from tests.servers import ReplicaSet, wait_until


def test_a_copy_of_a_secondary(tmp_path: Path) -> None:
    servers = ReplicaSet(tmp_path / "set", members=2)
    servers.start()
    try:
        client: Client = MongoClient(servers.uri, w=2)
        site = Site(tmp_path / "host", servers.members)
        with client:
            archive = _copied_under_load(client, site)
            client.shop.orders.create_index("n")
            client.shop.other.insert_one({"_id": 1})
            wallet = {"program": "main", "sequence": 3, "wallets": {"points": {"available": 7}}}
            client.loyalty.wallets.insert_one(wallet)
            state = state_of(client)
            _archive_all(client, site)
        assert (archive.role, archive.server) == ("secondary", servers.secondaries()[0].address)
        last = max(read_catalogue(site.target).slices, key=lambda piece: piece.to)
        assert (last.role, last.holdings) == ("secondary", Holdings(1, 3, {"main/points": 7}, None))
    finally:
        servers.stop()
    restore(site.settings, None, tmp_path / "restored")
    with Scratch.in_folder(site.settings, tmp_path / "restored").replica_set("fresh") as restored:
        assert state_of(restored) == state
    shutil.rmtree(tmp_path / "restored")


def _archive_all(client: Client, site: Site) -> None:
    """A secondary learns a moment later what a majority has, and gives nothing of its log before."""
    last = ClusterTime.of(client.admin.command("replSetGetStatus")["optimes"]["appliedOpTime"]["ts"])

    def is_archived() -> bool:
        archive_log(site.settings, site.target)
        return any(piece.to >= last for piece in read_catalogue(site.target).slices)

    wait_until(is_archived, timeout_s=30, failure=lambda: "the log does not go on")


def _copied_under_load(client: Client, site: Site) -> Any:
    over = threading.Event()

    def write(number: int) -> None:
        count = 0
        while not over.is_set():
            count += 1
            client.shop.orders.insert_many([{"_id": f"{number}-{count}-{i}", "n": count} for i in range(20)])
            client.shop.orders.update_many({"n": count}, {"$inc": {"m": 1}})
            with client.start_session() as session, session.start_transaction():
                client.shop.orders.insert_one({"_id": f"{number}-{count}"}, session=session)

    client.shop.orders.insert_one({"_id": "first"})
    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        return full(site.settings, site.target)
    finally:
        over.set()
        for thread in threads:
            thread.join()
