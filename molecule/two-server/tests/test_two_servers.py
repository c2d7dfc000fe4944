"""Who may talk to whom, and what clients notice when the database on the other server is lost for a moment."""

from __future__ import annotations

import json
import socket

import pytest

from tests.lab_site import LabSite, new_program
from tests.writers import Writers

PORTS = (22, 80, 443, 6379, 8443, 9100, 27017)
CONNECT = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor

def accepts(port):
    try:
        socket.create_connection((sys.argv[1], int(port)), timeout=2).close()
        return True
    except OSError:
        return False

with ThreadPoolExecutor(len(sys.argv)) as pool:
    for port, answer in zip(sys.argv[2:], pool.map(accepts, sys.argv[2:])):
        if answer:
            print(port)
"""


def is_open(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=2).close()
    except OSError:
        return False
    return True


def test_the_world_reaches_the_site_and_not_its_database(site: LabSite) -> None:
    assert [port for port in PORTS if is_open(site.lab.address("box1"), port)] == [22, 80, 443]
    assert [port for port in PORTS if is_open(site.lab.address("db1"), port)] == [22]


@pytest.mark.parametrize(("source", "target", "drawn"), [("box1", "db1", [22, 27017]), ("db1", "box1", [22, 80, 443])])
def test_only_the_edges_that_are_drawn_are_open(site: LabSite, source: str, target: str, drawn: list[int]) -> None:
    ports = [str(port) for port in PORTS]
    done = site.lab.ssh(source, ["python3", "-", site.lab.address(target), *ports], input_text=CONNECT, timeout_s=60)
    assert [int(port) for port in done.stdout.split()] == drawn


def test_a_killed_database_comes_back_by_itself_and_nothing_is_lost(
    site: LabSite, capsys: pytest.CaptureFixture[str]
) -> None:
    writers = Writers(site, new_program(site.client(), "two-server"))
    with writers.writing():
        site.run_on("db1", ["systemctl", "kill", "--signal=KILL", "mongod"])
        writers.wait_for_more(timeout_s=60)
        writers.wait_for_more(timeout_s=60)
    with capsys.disabled():
        print(f"\nkilled: {len(writers.acknowledged):,} writes, longest gap {writers.longest_gap_seconds:.2f} s")
    # Nobody else holds the data, so some may be told to come again.
    assert [failure for failure in writers.failures if not failure.startswith("503")] == []
    assert writers.applied() == len(writers.acknowledged)
    verified = json.loads(site.run(["loyalty ledger verify --json --no-progress"]))
    assert verified["ok"], verified["defects"][:5]
