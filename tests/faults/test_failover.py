"""What a failover of MongoDB costs those who write: a real set of three, the real application, clients that never wait.

The gap is the longest time between two answers that acknowledge a write, of all clients together.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from loyalty.infra.mongo import connect
from loyalty.ledger.verify import verify
from tests.bounds import assert_within
from tests.servers import PLAIN, Application, ReplicaSet, new_program, wait_until

CLIENTS = 6
ANSWER_S = 5.0


class Site:
    def __init__(self, directory: Path) -> None:
        self.mongo = ReplicaSet(directory)
        self.application: Application
        self.key = ""

    def start(self) -> None:
        self.mongo.start()
        self.application = Application(
            self.mongo.members[0].directory.parent / "application",
            mongo_uri=self.mongo.uri,
            database="failover",
            redis_url=None,
            rate_limit_per_minute="0",
        )
        self.key = new_program(self.mongo.uri, "failover")
        self.application.start()

    def stop(self) -> None:
        self.application.stop()
        self.mongo.stop()

    def client(self) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=self.application.url, verify=PLAIN, headers=headers, timeout=15)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="loyalty-failover-", ignore_cleanup_errors=True) as directory:
        site = Site(Path(directory))
        try:
            site.start()
            yield site
        finally:
            site.stop()


class Writers:
    """Clients that send one event after the other, each again and again under its id until it is acknowledged."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._run = secrets.token_hex(4)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(number,)) for number in range(CLIENTS)]
        self.acknowledged: dict[str, tuple[float, str]] = {}
        """When each event was acknowledged, and as which entry."""
        self.statuses: Counter[int] = Counter()
        self.slowest_s = 0.0
        self.defects: list[str] = []

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=60)

    def wait_for_more(self, count: int) -> None:
        """Until so many more events than now have been acknowledged."""
        wanted = len(self.acknowledged) + count
        wait_until(lambda: len(self.acknowledged) >= wanted, timeout_s=30, failure=lambda: f"stuck: {self.statuses}")

    def longest_gap_s(self) -> float:
        times = sorted(when for when, _ in self.acknowledged.values())
        return max(later - earlier for earlier, later in pairwise(times))

    def _write(self, number: int) -> None:
        with self._site.client() as api:
            count = 0
            while not self._over.is_set():
                count += 1
                self._until_acknowledged(api, number, f"{self._run}-{number}-{count}")

    def _until_acknowledged(self, api: httpx.Client, number: int, name: str) -> None:
        event = {
            "source": "failover",
            "id": name,
            "type": "purchase",
            "member": {"external_id": f"customer-{number % 3}"},
            "amount": "1.00",
            "currency": "USD",
        }
        while True:
            began = time.monotonic()
            answer = api.post("/v1/events", json=event)
            now = time.monotonic()
            self.statuses[answer.status_code] += 1
            self.slowest_s = max(self.slowest_s, now - began)
            if answer.is_success:
                self.acknowledged[name] = (now, answer.json()["entries"][0]["id"])
                return
            if answer.status_code != 503 or "Retry-After" not in answer.headers:
                self.defects.append(answer.text[:300])
                return


@pytest.mark.parametrize(("fault", "bound_s"), [("step_down", 1.5), ("kill", 5.0), ("freeze", 8.0)])
def test_writers_wait_no_longer_than_promised_and_nothing_is_lost_or_doubled(
    site: Site, fault: str, bound_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    primary = site.mongo.primary()
    with Writers(site) as writers:
        writers.wait_for_more(50)
        if fault == "step_down":
            site.mongo.step_down()
        else:
            getattr(primary, fault)()
        writers.wait_for_more(50)
        if fault == "kill":
            primary.start()
        else:
            primary.thaw()
        site.mongo.wait_until_whole()  # the old primary gives up what nobody else has
        writers.wait_for_more(50)
    gap = writers.longest_gap_s()
    with capsys.disabled():
        answers = ", ".join(f"{count} times {status}" for status, count in sorted(writers.statuses.items()))
        print(f"\nMongoDB primary, {fault}: writers waited {gap:.2f} s; {answers}, slowest {writers.slowest_s:.2f} s")
    assert writers.defects == []
    assert site.mongo.primary() is not primary or fault != "freeze"
    assert_within(bound_s, gap, "the gap")
    assert_within(ANSWER_S, writers.slowest_s, "the slowest answer")
    judge(site, writers)


def judge(site: Site, writers: Writers) -> None:
    """Each acknowledged event is in the ledger once, as the entry that was answered, and nothing else is there."""
    db = connect(site.mongo.uri, "failover", serves_requests=False)
    try:
        found = Counter(
            entry["evidence"]["event"]["id"]
            for entry in db.ledger.find({"evidence.event.id": {"$regex": f"^{writers._run}-"}})
        )
        assert found == Counter(writers.acknowledged.keys())
        assert verify(db).defects == []
    finally:
        db.client.close()
