"""The short version: local servers, about a minute."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loyalty.infra.mongo import connect
from loyalty.ledger.verify import verify
from tests.faults.workload import Workload
from tests.servers import Application, Mongod, Redis, new_program


class Site:
    """Servers of its own, because they die here."""

    key: str

    def __init__(self, directory: Path) -> None:
        self.mongod = Mongod(directory / "mongod")
        self.redis = Redis(directory / "redis")
        self.application = Application(
            directory / "application",
            mongo_uri=self.mongod.uri,
            database="faults",
            redis_url=self.redis.url,
            rate_limit_per_minute="0",
        )

    def start(self) -> None:
        self.mongod.start()
        self.redis.start()
        self.key = new_program(self.mongod.uri, "faults")
        self.application.start()

    def connect(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.application.url, headers=headers, timeout=15)

    def stop(self) -> None:
        for server in (self.application, self.redis, self.mongod):
            server.stop()


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="loyalty-faults-", ignore_cleanup_errors=True) as directory:
        site = Site(Path(directory))
        try:
            site.start()
            yield site
        finally:
            site.stop()


def test_every_acknowledged_operation_is_there_once_after_mongod_and_gunicorn_were_killed(site: Site) -> None:
    workload = Workload(site.connect)
    workload.start()
    for server, absent_s in ((site.mongod, 1.5), (site.application, 0.5), (site.redis, 0.5), (site.mongod, 0.0)):
        time.sleep(4)  # what is tested is load over time: let it flow between the faults
        server.kill()
        time.sleep(absent_s)  # how long the server is away is the fault
        server.start()
    time.sleep(4)  # and after the last one
    tally = workload.stop()

    assert workload.judge() == []
    assert len(tally.done) > 200, "too little happened to prove anything"
    assert tally.refused > 0
    assert tally.repeated > 0
    assert tally.attempts["503"] > 0, "nobody noticed that the database was away"
    with connect(site.mongod.uri, "faults", serves_requests=False).client as client:
        report = verify(client.get_database("faults"))
        assert report.defects == []
        assert report.entries == len(tally.done)


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
            assert time.monotonic() - began < 5
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json()["code"] == "unavailable"
        if fault == "kill":
            site.mongod.start()
        else:
            site.mongod.thaw()
        deadline = time.monotonic() + 10
        while (answer := api.post("/v1/events", json=event)).status_code == 503:
            assert time.monotonic() < deadline, "the application did not find its database again"
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
