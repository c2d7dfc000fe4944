"""Three members, and what happens to the clients when one is lost, restarted or replaced."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from loyalty.ops import ansible, cli
from loyalty.ops.environment import tool_environment
from loyalty.ops.site import CHECKOUT
from tests.lab_site import LabSite, new_program
from tests.servers import wait_until
from tests.writers import Writers

MEMBERS = ("db1", "db2", "box1")
Ask = Callable[[str, str], Any]
Capsys = pytest.CaptureFixture[str]


def tell(capsys: Capsys, what: str, writers: Writers) -> None:
    """Print the figure that the test is about, whether or not it holds."""
    with capsys.disabled():
        print(f"\n{what}: {len(writers.acknowledged):,} writes, longest gap {writers.longest_gap_seconds:.2f} s")


@pytest.fixture
def writers(site: LabSite) -> Writers:
    return Writers(site, new_program(site.client(), "replica-set"))


def states(ask: Ask, host: str) -> dict[str, str]:
    return {
        member["name"]: member["stateStr"]
        for member in ask(host, "client.admin.command('replSetGetStatus')")["members"]
    }


def primary(ask: Ask) -> str:
    return str(ask("box1", "client.admin.command('hello')").get("primary", "")).partition(":")[0]


def wait_until_whole(ask: Ask) -> None:
    """Until all three members serve, and each of them says so itself."""

    def whole() -> bool:
        said = [ask(host, "client.admin.command('hello')") or {} for host in MEMBERS]
        return sorted(each.get("secondary", False) for each in said) == [False, True, True] and primary(ask) != ""

    wait_until(whole, timeout_s=60, failure=lambda: str(states(ask, "box1")))


def test_all_three_hold_data_and_vote_and_two_may_lead(ask: Ask) -> None:
    config = ask("db1", "client.admin.command('replSetGetConfig')")["config"]
    members = {member["host"]: member for member in config["members"]}
    assert set(members) == {"db1:27017", "db2:27017", "box1:27017"}
    assert {member["votes"] for member in members.values()} == {1}
    assert not any(member["arbiterOnly"] or member["hidden"] for member in members.values())
    assert {host: member["priority"] for host, member in members.items()} == {
        "db1:27017": 1, "db2:27017": 1, "box1:27017": 0
    }  # by hand: a line holds what belongs together  # fmt: skip
    assert config["settings"]["electionTimeoutMillis"] == 2000
    assert config["settings"]["heartbeatIntervalMillis"] == 500
    assert config["settings"]["chainingAllowed"] is False
    assert sorted(states(ask, "box1").values()) == ["PRIMARY", "SECONDARY", "SECONDARY"]


@pytest.mark.parametrize(("source", "target"), [("box1", "db1"), ("db1", "db2"), ("db2", "box1")])
def test_members_speak_tls_and_nothing_else(site: LabSite, source: str, target: str) -> None:
    program = f"""
import pymongo
for options in ({{}}, {{"tls": True}}):
    try:
        client = pymongo.MongoClient("{target}", directConnection=True, serverSelectionTimeoutMS=3000, **options)
        client.admin.command("hello")
        print("answered")
    except pymongo.errors.ConnectionFailure:
        print("refused")
client = pymongo.MongoClient("{target}", directConnection=True, tls=True, tlsCAFile="/etc/loyalty/tls/ca.crt")
print(client.admin.command("hello")["setName"])
"""
    done = site.lab.ssh(source, ["/opt/loyalty/ops-venv/bin/python", "-"], input_text=program, timeout_s=60)
    # Plain text is refused, and so is TLS that trusts another authority than the site's.
    assert done.stdout.split() == ["refused", "refused", "loyalty"], done.stderr


def test_only_the_edges_that_are_drawn_are_open(site: LabSite) -> None:
    """Between any two hosts: MongoDB, SSH, and the site itself; nothing else that listens anywhere."""
    program = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def accepts(address):
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        return True
    except OSError:
        return False

with ThreadPoolExecutor(len(sys.argv)) as pool:
    for address, answer in zip(sys.argv[1:], pool.map(accepts, sys.argv[1:])):
        if answer:
            print(address)
"""
    ports = (22, 80, 443, 6379, 8443, 9100, 27017)
    for source in MEMBERS:
        others = [f"{site.lab.address(host)}:{port}" for host in MEMBERS if host != source for port in ports]
        done = site.lab.ssh(source, ["python3", "-", *others], input_text=program, timeout_s=120)
        drawn = {f"{site.lab.address(host)}:{port}" for host in MEMBERS if host != source for port in (22, 27017)}
        web = {f"{site.lab.address('box1')}:{port}" for port in (80, 443)} if source != "box1" else set()
        assert set(done.stdout.split()) == drawn | web


def test_a_name_has_one_address(site: LabSite) -> None:
    """Also on the host whose own name it is: installers give that another, at which nothing listens."""
    for host in MEMBERS:
        for name in MEMBERS:
            found = site.run_on(host, ["getent", "ahostsv4", name]).split("\n")
            assert {line.split()[0] for line in found if line} == {site.lab.address(name)}


def test_an_index_on_what_there_is_is_finished(ask: Ask) -> None:
    """For that every member has to reach the primary by name, and the primary itself too."""
    work = "things.insert_one({'a': 1}), client.scratch.things.create_index('a'), client.drop_database('scratch')"
    assert ask(primary(ask), f"(client.scratch.{work})[1]") == "a_1"


def without_a_member(host: str, folder: Path) -> Path:
    """The site's inventory as its operator edits it before `replica remove`."""
    shutil.copytree(CHECKOUT / "inventory" / "three-server", folder)
    written = yaml.safe_load((folder / "hosts.yml").read_text())
    del written["loyalty"]["children"]["mongodb"]["hosts"][host]
    (folder / "hosts.yml").write_text(yaml.safe_dump(written, sort_keys=False))
    return folder


def test_a_check_shows_the_steps_in_order_and_changes_nothing(
    site: LabSite, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inventory = without_a_member("db2", tmp_path / "inventory")
    of_the_lab = ansible.inventories(site.lab.site)[-1]
    monkeypatch.setattr(ansible, "inventories", lambda site: [str(inventory), of_the_lab])
    leader = primary(ask)
    before = ask(leader, "client.admin.command('replSetGetConfig')['config']")
    answer = CliRunner().invoke(cli.cli, ["replica", "remove", "db2", "--check", "--site", site.lab.site])
    assert answer.exit_code == 0, f"{answer.output}\n{answer.exception}"
    steps = ["let db2:27017 step down, and wait until another member leads"] if leader == "db2" else []
    steps += [
        "set the priority of db2:27017 from 1 to 0",
        "take the vote of db2:27017 (votes: 3, then 2)",
        "remove db2:27017",
    ]
    shown = re.findall(r"^\d+\. .*$", answer.output, re.MULTILINE)
    assert shown == [f"{number}. {step}" for number, step in enumerate(steps, 1)], answer.output
    assert f"{leader}:27017 leads. Each step waits until a majority of the votes" in answer.output
    assert {"version", "term", "members"} <= before.keys()
    assert ask(leader, "client.admin.command('replSetGetConfig')['config']") == before


def test_a_rolling_restart_fails_no_request(site: LabSite, ask: Ask, writers: Writers, capsys: Capsys) -> None:
    started = {host: site.lab.ssh(host, ["systemctl show mongod --property=MainPID"]).stdout for host in MEMBERS}
    with writers.writing():
        site.run_playbook("replica_restart")
    for host in MEMBERS:
        assert site.lab.ssh(host, ["systemctl show mongod --property=MainPID"]).stdout != started[host]
    tell(capsys, "rolling restart", writers)
    assert writers.failures == []
    assert writers.longest_gap_seconds < 5
    assert writers.applied() == len(writers.acknowledged)
    wait_until_whole(ask)


def test_the_failover_drill_moves_the_primary_twice_and_nothing_is_lost(
    site: LabSite, ask: Ask, writers: Writers, capsys: Capsys
) -> None:
    drills = site.directory / "failover_drills.jsonl"
    with writers.writing():
        # Each single writer is held to 1.5 and 5 s where nothing else runs on the same cores.
        bounds = {"mongodb_drill_planned_seconds": 5, "mongodb_drill_unplanned_seconds": 10}
        site.run_playbook("failover_drill", extra=bounds)
    tell(capsys, "planned failover, then a killed primary", writers)
    # A request that would wait longer than its client is told to come again.
    assert [failure for failure in writers.failures if not failure.startswith("503")] == []
    assert writers.longest_gap_seconds < 5
    assert writers.applied() == len(writers.acknowledged)
    result = json.loads(drills.read_text().splitlines()[-1])
    assert result["ok"]
    assert result["acknowledged_lost"] == 0 < result["acknowledged"]
    assert 0 < result["planned_gap_seconds"] <= 5
    assert 0 < result["unplanned_gap_seconds"] <= 10
    wait_until_whole(ask)


def test_the_failover_drill_is_refused_while_a_member_is_missing(site: LabSite, ask: Ask) -> None:
    leader = primary(ask)
    missing = next(host for host in MEMBERS if host != leader)
    site.run_on(missing, ["systemctl stop mongod"])
    try:
        done = subprocess.run(
            ["./appliance", "failover", "--drill", "--site", site.lab.site, "--json"],
            cwd=CHECKOUT,
            env=tool_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        site.run_on(missing, ["systemctl start mongod"])
    assert done.returncode == 2, done.stderr
    assert missing in done.stderr
    assert primary(ask) == leader
    wait_until_whole(ask)


def test_a_member_with_an_empty_disk_copies_the_data_again(site: LabSite, ask: Ask, writers: Writers) -> None:
    lost = next(host for host in ("db1", "db2") if host != primary(ask))
    with writers.writing():
        site.run_on(
            lost, ["systemctl stop mongod && find /var/lib/mongodb -mindepth 1 -delete && systemctl start mongod"]
        )
        wait_until_whole(ask)
    assert writers.failures == []
    assert writers.applied() == len(writers.acknowledged)
    count = "db.ledger.count_documents({})"
    wanted = ask(primary(ask), count)
    wait_until(
        lambda: ask(lost, count) == wanted, timeout_s=30, failure=lambda: f"{lost} has not all of {wanted} entries"
    )
