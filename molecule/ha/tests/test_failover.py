"""Any one host may fail: what it costs those who are being served, measured at the floating address.

Each test leaves the site whole. Run with `-s` to see the numbers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from loyalty.jobs.model import ContinuousJob, PeriodicJob
from loyalty.jobs.schedule import JOBS
from tests.lab_site import LabSite
from tests.oplog import Oplog, Write
from tests.servers import wait_until
from tests.tills import Tills

APP = ("box1", "box2")
DATA = ("db1", "db2", "db3")
CA = "/etc/loyalty/tls/ca.crt"
CONTINUOUS = [job.name for job in JOBS if isinstance(job, ContinuousJob)]
MINUTELY = [job.name for job in JOBS if isinstance(job, PeriodicJob) and job.every == timedelta(minutes=1)]


def on(site: LabSite, host: str, *command: str) -> str:
    """What a command prints on a host; empty when it fails, which it may while the host is away."""
    try:
        done = site.lab.ssh(host, command, timeout_s=30)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def holder(site: LabSite) -> str:
    """Who has the floating address."""
    address = site.url.removeprefix("https://")
    holders = [host for host in APP if f" {address}/" in on(site, host, "ip", "-4", "address")]
    return holders[0] if len(holders) == 1 else ""


def nodes_ready(site: LabSite, host: str) -> bool:
    """Whether the balancer of `host` sends requests to every node."""
    return on(site, host, "balancer-nodes").count(" UP") == len(APP)


def redis_master(site: LabSite, asked: str = "db1") -> str:
    """The host that a Sentinel calls the master."""
    command = f"redis-cli --tls --cacert {CA} -p 26379 sentinel get-master-addr-by-name loyalty"
    password = site.secret("vault_redis_sentinel_password")
    done = site.lab.ssh(asked, [f"read -r REDISCLI_AUTH; export REDISCLI_AUTH; {command}"], input_text=password + "\n")
    addresses = {site.lab.address(host): host for host in DATA}
    return addresses.get(done.stdout.split("\n")[0], "")


def parts(site: LabSite) -> dict[str, Any]:
    """What whoever answers says of its parts."""
    with site.client(timeout_s=10) as client:
        try:
            found: dict[str, Any] = client.get("/readyz").json()["parts"]
        except (httpx.TransportError, ValueError):
            return {}
    return found


def is_whole(site: LabSite) -> bool:
    states = {name: part["state"] for name, part in parts(site).items()}
    return (
        states == {"mongodb": "up", "redis": "up", "storage": "up"}
        and bool(holder(site))
        and all(nodes_ready(site, host) for host in APP)
        and all(redis_master(site, host) for host in DATA)
        and on(site, "db1", "gluster", "volume", "heal", "loyalty", "info").count("Number of entries: 0") == len(DATA)
    )


def until(condition: Callable[[], bool], what: str, timeout_s: float = 120) -> float:
    """Seconds until `condition` holds."""
    began = time.monotonic()
    wait_until(condition, timeout_s=timeout_s, failure=lambda: what)
    return time.monotonic() - began


@pytest.fixture(autouse=True)
def whole(site: LabSite) -> None:
    until(lambda: is_whole(site), "the site is not whole")


def show(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with capsys.disabled():
        sys.stdout.write(f"\n{text}\n")


def schedulers(site: LabSite) -> dict[str, str]:
    """What the process of the jobs says of itself on each node: `working` or `standing by`."""
    asked = ("systemctl", "show", "--property=StatusText", "--value", "loyalty-jobs.service")
    return {host: on(site, host, *asked).partition(",")[0] for host in APP}


class Jobs:
    """Who has the lease of the jobs, and all that is written about it and about the jobs from now on."""

    def __init__(self, site: LabSite) -> None:
        until(lambda: sorted(schedulers(site).values()) == ["standing by", "working"], "no node is the jobs' heir")
        self._site = site
        self._primary = str(site.ask("db1", "client.admin.command('hello')")["primary"]).partition(":")[0]
        self._leases, self._records = (Oplog(site, self._primary, name) for name in ("leases", "jobs"))
        self.lease = self._lease()
        self.holder: str = self.lease["holder"].partition(":")[0]
        self.heir = next(host for host in APP if host != self.holder)

    def wait_until_taken_over(self) -> None:
        def taken() -> bool:
            return str(self._lease().get("holder")).startswith(f"{self.heir}:")

        until(taken, f"{self.heir} did not take the lease", timeout_s=40)

    def wait_until_run(self) -> None:
        """Until every job that always runs, and every job of each minute, has run under the lease of the heir."""
        term = self._lease()["term"]

        def states() -> dict[str, str]:
            found = self._site.ask(self._primary, "list(db.jobs.find())") or []
            return {job["_id"]: job["last_status"] for job in found if job["term"] == term}

        wanted = dict.fromkeys(CONTINUOUS, "running") | dict.fromkeys(MINUTELY, "ok")
        until(lambda: wanted.items() <= states().items(), f"not all jobs run on {self.heir}", timeout_s=90)

    def wait_until_one_works(self) -> None:
        wanted = {self.holder: "standing by", self.heir: "working"}
        until(lambda: schedulers(self._site) == wanted, f"{self.holder} does not stand by")

    def handover(self) -> Write:
        """The one write by which the lease went to the heir."""
        (write,) = [write for write in self._leases.writes() if write.changes("holder")]
        assert write.before["holder"] == self.lease["holder"]
        assert write.after["holder"].startswith(f"{self.heir}:")
        assert write.after["term"] == write.before["term"] + 1 == self.lease["term"] + 1
        return write

    def runs(self) -> list[Write]:
        """The writes that end a run of a job that has periods, each of which was due, and is the only one."""
        ends = []
        for write in self._records.writes():
            before, after = write.before, write.after
            assert after["term"] >= before.get("term", 0), f"a holder of the past wrote: {write}"
            if "slot" not in after:
                continue
            if write.changes("runs"):
                again = before.get("slot") == after["slot"] and before["last_status"] == "ok"
                assert not again, f"begun again: {write}"
                assert after["slot"] >= before.get("slot", ""), f"a period of the past: {write}"
            if write.changes("last_finished_at"):
                assert before["last_status"] == "running", f"ended twice: {write}"
                ends.append(write)
        return ends

    def _lease(self) -> dict[str, Any]:
        return self._site.ask(self._primary, "db.leases.find_one('jobs')") or {}


def unheld_s(handover: Write) -> float:
    """How long nobody held the lease at most: since its last renewal, by the database's clock."""
    since, at = (datetime.fromisoformat(lease["until"]) for lease in (handover.before, handover.after))
    return (at - since).total_seconds()


def test_any_node_serves_anyone(site: LabSite) -> None:
    answering = set()
    for _ in range(20):
        with site.client() as client:
            answering.add(client.get("/version").json()["node"])
    assert answering == set(APP)


def test_a_node_without_power_costs_one_retry(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    """The one that does not hold the floating address: connections through the other's balancer."""
    victim = next(host for host in APP if host != holder(site))
    with Tills(site) as tills:
        site.lab.kill(victim)
        tills.go_on(8)
    show(capsys, tills.report(f"{victim} without power"))
    site.lab.boot(victim)
    assert not tills.failed
    assert tills.most_attempts <= 2
    assert not tills.lost()


def test_the_floating_address_moves_when_its_holder_loses_power(
    site: LabSite, capsys: pytest.CaptureFixture[str]
) -> None:
    victim = holder(site)
    with Tills(site) as tills:
        site.lab.kill(victim)
        tills.go_on(8)
    show(capsys, tills.report(f"{victim}, holder of the address, without power"))
    site.lab.boot(victim)
    assert not tills.failed
    assert tills.longest_gap_s < 4
    assert not tills.lost()


def test_the_floating_address_moves_when_its_balancer_stops(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    victim = holder(site)
    with Tills(site) as tills:
        on(site, victim, "systemctl", "stop", "haproxy")
        tills.go_on(6)
    on(site, victim, "systemctl", "start", "haproxy")
    show(capsys, tills.report(f"HAProxy of {victim} stopped"))
    assert not tills.failed
    assert tills.longest_gap_s < 3
    assert not tills.lost()


def test_nobody_waits_for_an_answer_of_a_balancer_that_has_left(
    site: LabSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in an upgrade or a reboot: without the address an answer reaches nobody, so connections end before."""
    left = holder(site)
    with Tills(site) as tills:
        on(site, left, "systemctl", "restart", "keepalived")
        until(lambda: holder(site) not in ("", left), "the address did not move")
        tills.go_on(12)  # longer than a till waits for an answer
    show(capsys, tills.report(f"keepalived of {left} restarted"))
    assert not tills.failed
    assert tills.slowest_s < 5
    assert not tills.lost()


def test_the_jobs_move_within_15_s_when_their_host_loses_power(
    site: LabSite, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = Jobs(site)
    site.lab.kill(jobs.holder)
    try:
        jobs.wait_until_taken_over()
    finally:
        site.lab.boot(jobs.holder)
    jobs.wait_until_run()
    jobs.wait_until_one_works()
    handover = jobs.handover()
    show(capsys, f"jobs of {jobs.holder}, without power: {jobs.heir} after {unheld_s(handover):.1f} s")
    assert unheld_s(handover) < 15
    runs = jobs.runs()
    assert {run.after["_id"] for run in runs if run.after["holder"] == handover.after["holder"]} >= set(MINUTELY)


def test_a_frozen_scheduler_is_replaced_and_stands_by_when_it_wakes(
    site: LabSite, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may wake in the middle of a job and does not know that its time is over: the fencing token does."""
    jobs = Jobs(site)
    on(site, jobs.holder, "systemctl", "kill", "--signal=STOP", "loyalty-jobs")
    try:
        jobs.wait_until_taken_over()
    finally:
        on(site, jobs.holder, "systemctl", "kill", "--signal=CONT", "loyalty-jobs")
    jobs.wait_until_one_works()
    handover = jobs.handover()
    show(capsys, f"jobs of {jobs.holder}, frozen: {jobs.heir} after {unheld_s(handover):.1f} s")
    assert unheld_s(handover) < 15
    jobs.runs()


def test_a_frozen_redis_master_is_replaced_within_6_s(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    master = redis_master(site)
    asked = next(host for host in DATA if host != master)
    with Tills(site) as tills:
        on(site, master, "systemctl", "kill", "--signal=STOP", "redis-server")
        gone = until(lambda: redis_master(site, asked) not in ("", master), "no other master", timeout_s=30)
        back = until(lambda: parts(site).get("redis", {}).get("state") == "up", "Redis is not up", timeout_s=30)
        tills.go_on(3)
    on(site, master, "systemctl", "kill", "--signal=CONT", "redis-server")
    show(
        capsys, tills.report(f"Redis of {master} frozen, another master after {gone:.1f} s, in use {back:.1f} s later")
    )
    assert not tills.failed
    assert tills.most_attempts == 1
    assert gone + back < 6


def test_a_data_host_without_power(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    """The hardest: the host of Redis' master, with a copy of the files and a member of the replica set."""
    victim = redis_master(site)
    content = os.urandom(200_000)
    with site.client() as client:
        before = client.post("/v1/files", content=content, params={"name": "before"}).json()
    with Tills(site) as tills, site.client(timeout_s=30) as client:
        site.lab.kill(victim)
        began = time.monotonic()
        assert client.get(urlsplit(before["download_url"])._replace(scheme="", netloc="").geturl()).content == content
        served = time.monotonic() - began
        made = client.post("/v1/files", content=content + b"after", params={"name": "after"})
        stored = time.monotonic() - began
        tills.go_on(8)
    show(
        capsys,
        tills.report(f"{victim} without power (file served after {served:.1f} s, another stored after {stored:.1f} s)"),
    )
    site.lab.boot(victim)
    assert made.status_code == 201
    assert not tills.failed
    assert not tills.lost()
    healed = until(lambda: is_whole(site), "the site did not become whole again", timeout_s=180)
    show(capsys, f"{victim} back and whole after {healed:.1f} s")


def test_a_killed_file_server_is_started_again(site: LabSite) -> None:
    # Asked as a pattern that does not match the shell which asks.
    on(site, "db2", "pkill", "-KILL", "-x", "glusterfsd")
    until(lambda: on(site, "db2", "pgrep", "-x", "glusterfsd") != "", "the file server was not started again")


def test_changes_reach_both_nodes_without_a_failed_request(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    """A changed setting starts the other colour of each node in turn, as a release does."""
    with Tills(site) as tills:
        for level in ("warning", "info"):
            site.run_playbook("site", extra={"app_log_level": level}, options=["--tags", "app"])
    show(capsys, tills.report("both nodes switched, and back"))
    assert not tills.failed
    assert tills.most_attempts == 1


def test_every_member_is_restarted_without_a_failed_request(site: LabSite, capsys: pytest.CaptureFixture[str]) -> None:
    with Tills(site) as tills:
        site.run_playbook("replica_restart")
        tills.go_on(3)
    show(capsys, tills.report("rolling restart of MongoDB"))
    assert not tills.failed
    assert tills.most_attempts == 1
    assert tills.longest_gap_s < 5
    assert not tills.lost()
