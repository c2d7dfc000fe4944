"""One server under attack, the short version: everything is away for a while, and comes back by itself."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.bounds import assert_within
from tests.faults.local import Nodes, end
from tests.faults.nemesis import Nemesis
from tests.faults.workload import Workload, prepare
from tests.servers import PLAIN, ReplicaSet


class Site(Nodes):
    """A server's worth of servers, its own, because they die here."""

    def __init__(self, directory: Path) -> None:
        mongods = ReplicaSet(directory, members=1)
        super().__init__(directory, mongods, factory="skewable", database="faults", nodes=1)
        self.mongod, self.application = mongods.members[0], self.applications[0]

    def connect(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.application.url, verify=PLAIN, headers=headers, timeout=15)


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="loyalty-faults-", ignore_cleanup_errors=True) as directory:
        site = Site(Path(directory))
        try:
            site.mongods.start()
            site.start()
            yield site
        finally:
            site.stop()
            end(site.mongods)


def test_every_acknowledged_operation_is_there_once_after_everything_was_killed(site: Site) -> None:
    with site.connect() as api:
        stage, tally = prepare(api, members=12)
    workload = Workload(stage, tally, site.connects, pause_s=0.1)
    workload.start()
    nemesis = Nemesis(site.faults, lasts_s=2, peace_s=2)
    nemesis.once_each(["primary killed", "application killed", "Redis killed"])
    verdict = site.judge(stage, workload.stop())
    assert verdict.wrong == []
    assert len(tally.acknowledged()) > 100, "too little happened to prove anything"
    assert tally.refused() > 0
    database = next(fault for fault in nemesis.happened if fault.kind == "primary killed")
    # Requests wait for the database that long and longer without an error, so what shows is the silence.
    assert tally.gap_s(database.began, database.settled) > 0.9, "nobody noticed that the database was away"


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_database_that_is_away_is_answered_503_within_5_s_and_comes_back_by_itself(site: Site, fault: str) -> None:
    event = {
        "source": "faults",
        "id": "while-away",
        "type": "purchase",
        "member": {"external_id": "00001"},
        "amount": "1.00",
        "currency": "USD",
    }
    with site.connect() as api:
        assert api.post("/v1/events", json={**event, "id": "before"}).status_code == 201
        getattr(site.mongod, fault)()
        for _ in range(3):
            began = time.monotonic()
            answer = api.post("/v1/events", json=event)
            assert_within(5, time.monotonic() - began, "the answer")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["code"] == "unavailable"
        if fault == "kill":
            site.mongod.start()
        else:
            site.mongod.thaw()
        back = time.monotonic()
        while (answer := api.post("/v1/events", json=event)).status_code == 503:
            assert_within(10, time.monotonic() - back, "finding its database again")
            time.sleep(0.2)  # a poll, as a client would
        # The writes that timed out may have been applied; the event is there once in any case.
        assert answer.status_code in (200, 201)
        assert len(api.get("/v1/members/ext:00001/entries").json()["data"]) == 2


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_a_redis_that_is_away_costs_nothing_but_time(site: Site, fault: str) -> None:
    getattr(site.redis, fault)()
    with site.connect() as api:
        for number in range(20):
            event = {
                "source": "faults",
                "id": str(number),
                "type": "purchase",
                "member": {"external_id": "00001"},
                "amount": "1.00",
                "currency": "USD",
            }
            assert api.post("/v1/events", json=event).status_code == 201
        assert len(api.get("/v1/members/ext:00001/entries").json()["data"]) == 20
    if fault == "freeze":
        site.redis.thaw()
