"""Everything is destroyed, and comes back: to a second in the middle beside the site, and to the end into it.

The tests tell one story and follow each other: backups under load, a look at the past, the loss, the restore.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

import httpx
import pytest

from loyalty.ops.environment import tool_environment
from loyalty.ops.site import CHECKOUT
from tests import runbook
from tests.lab_site import LEDGER, LabSite, new_program
from tests.servers import wait_until
from tests.writers import Writers

MEMBERS = ("db1", "db2", "box1")
KEEPER = "db2"
Capsys = pytest.CaptureFixture[str]
SCRATCH_PORT = 27117

JOINED = """[
    entry["ts"].time
    for entry in client.local["oplog.rs"].find({"op": "n", "o.msg": "Reconfig set"})
]"""
"""When the members of the restored replica set changed, in seconds of 1970's clock."""


@dataclass
class Story:
    """What has happened so far."""

    site: LabSite
    key: str
    early: Writers = field(init=False)
    late: Writers = field(init=False)
    middle: str = ""
    """A second, as it is typed."""
    ledger_then: list[Any] = field(default_factory=list)
    """The ledger as the site had it in that second."""
    archived_until: float = 0
    destroyed_at: float = 0

    def __post_init__(self) -> None:
        self.early, self.late = Writers(self.site, self.key), Writers(self.site, self.key)

    def state(self) -> dict[str, Any]:
        """What `status` sees of the backups."""
        line = [sys.executable, "-m", "loyalty.ops", "status", "--json", "--site", self.site.lab.site]
        done = subprocess.run(line, cwd=CHECKOUT, env=tool_environment(), capture_output=True, text=True, check=False)
        seen = json.loads(done.stdout)
        found: dict[str, Any] = seen["hosts"][KEEPER]["state"]["backup"]
        return found | {"problems": seen["problems"]}


@pytest.fixture(scope="module")
def story(site: LabSite) -> Story:
    return Story(site, new_program(site.client(), "restore-drill"))


def wait_for_the_clock(second: int) -> None:
    """Until that second of 1970's clock has begun: the clock is what is waited for."""
    wait_until(lambda: time.time() >= second, timeout_s=10, failure=lambda: str(second))


def test_backups_are_taken_under_load(story: Story) -> None:
    with story.early.writing():
        runbook.appliance(story.site, "backup", "--full", "--log", "--files")
        for _ in range(20):
            story.early.wait_for_more()
        runbook.appliance(story.site, "backup", "--incremental", "--log")
    assert story.early.failures == []
    backup = story.state()
    assert {"full", "incremental", "files"} <= backup["good"].keys()
    assert backup["alarms"] == []
    assert [problem for problem in backup["problems"] if problem["check"].startswith("backup")] == []


def test_a_second_in_the_middle_is_marked(story: Story) -> None:
    """Nobody writes around it, so that it can be told to the entry what was there."""
    second = int(time.time()) + 1
    wait_for_the_clock(second + 1)
    story.middle = datetime.fromtimestamp(second, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    story.ledger_then = story.site.ask("box1", LEDGER)
    assert len(story.ledger_then) >= len(story.early.acknowledged) > 0


def test_the_drill_passes_and_says_how_fast_it_was(story: Story, capsys: Capsys) -> None:
    told = json.loads(runbook.appliance(story.site, "drill", "restore", "--json"))
    with capsys.disabled():
        print(f"\ndrill: RTO {told['rto_seconds']} s, RPO {told['rpo_seconds']} s, {told['entries']} entries")
    assert told["ok"]
    assert told["verified"]
    assert told["entries"] > 0
    assert [problem for problem in story.state()["problems"] if problem["check"] == "restore drill"] == []


def test_the_database_of_every_member_is_destroyed_while_clients_write(story: Story) -> None:
    with story.late.writing(to_the_end=False):
        for _ in range(20):
            story.late.wait_for_more()
        story.site.run_on(KEEPER, ["systemctl start loyalty-backup-log.service"])
        reached = json.loads(story.site.run_on(KEEPER, ["loyalty-backup window --json"]))[-1]["to"]
        story.archived_until = datetime.fromisoformat(reached.replace("Z", "+00:00")).timestamp()
        story.late.wait_for_more()
        story.destroyed_at = time.time()
        for host in MEMBERS:
            story.site.run_on(
                host, ["systemctl kill --signal=KILL mongod; systemctl stop mongod; rm -rf /var/lib/mongodb/*"]
            )


def test_the_second_in_the_middle_is_exact(story: Story) -> None:
    runbook.follow(story.site, "look-beside", instant=story.middle)
    there = story.site.ask(KEEPER, LEDGER, port=SCRATCH_PORT, tls=False)
    assert there == story.ledger_then
    runbook.follow(story.site, "end-look")


@contextmanager
def answers(site: LabSite) -> Iterator[dict[tuple[int, str], float]]:
    """What clients are answered meanwhile: status and Retry-After, each kind with when it was first answered."""
    seen: dict[tuple[int, str], float] = {}
    end = threading.Event()

    def ask() -> None:
        with site.client(timeout_s=10) as client:
            while not end.wait(0.5):
                try:
                    answer = client.get("/v1/programs")
                except httpx.TransportError:
                    continue
                kind = answer.status_code, answer.headers.get("retry-after", "")
                seen.setdefault(kind, time.time())

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        end.set()
        thread.join()


def test_the_site_comes_back_to_the_last_archived_instant(story: Story, capsys: Capsys) -> None:
    began = time.time()
    with answers(story.site) as seen:
        runbook.follow(story.site, "lost-disk")
    took = time.time() - began
    opened = seen[200, ""] - began
    lost_s = story.destroyed_at - story.archived_until
    with capsys.disabled():
        print(f"\nrestore: RTO {opened:.0f} s (all in {took:.0f} s), RPO {lost_s:.0f} s; answers were {list(seen)}")
    assert (503, "30") in seen, "the site was closed, and said when to come again"
    joined = story.site.ask("db1", JOINED)
    assert joined
    assert seen[200, ""] < max(joined), "clients were served before the other members had copied the data"
    # What was acknowledged up to the last archived instant is all there: each is sent again, and is known.
    assert story.early.applied() == len(story.early.acknowledged) > 0
    told = story.late.told(story.archived_until)
    assert story.late.applied(until=story.archived_until) == len(told)


def test_nothing_is_there_of_the_time_after(story: Story) -> None:
    """A sale that came after the last archived second is new to the site."""
    later = [
        id
        for id, at in zip(story.late.acknowledged, story.late.acknowledged_at, strict=True)
        if at > story.archived_until + 1.5
    ]
    assert later, "clients wrote until the end"
    with story.site.client(story.key) as client:
        answer = client.post("/v1/events", json=story.late.sale(later[-1])).raise_for_status()
    assert answer.json()["replayed"] is False


def test_the_replica_set_is_whole_and_goes_on(story: Story) -> None:
    def whole() -> bool:
        said = [story.site.ask(host, "client.admin.command('hello')") or {} for host in MEMBERS]
        return sorted(each.get("secondary", False) for each in said) == [False, True, True]

    wait_until(whole, timeout_s=60, failure=lambda: "the members do not serve")
    again = Writers(story.site, story.key)
    with again.writing():
        again.wait_for_more()
    assert again.failures == []
    # NGINX, which is in the group, has to get through.
    assert story.site.run(["stat --format=%a:%U:%G /mnt/storage/files"]).strip() == "750:loyalty:loyalty"
    assert [problem["found"] for problem in story.state()["problems"]] == []
