"""The short version of the cluster under attack: three mongods and two applications on this machine.

`python -m tests.faults` is the long one, on servers of the lab, with partitions and full disks.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from loyalty.infra.mongo import connect
from tests.faults.local import Nodes, end
from tests.faults.nemesis import Nemesis
from tests.faults.workload import Tally, Workload, prepare
from tests.servers import ReplicaSet

MEMBERS = 12
ENOUGH = 300
ATTEMPTS = 5
"""How often a broken build is attacked: what it lacks shows only to a client who asks at the wrong moment, and a busy
machine has few of them. A sound build is attacked as one, and nothing may be found."""


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="loyalty-", ignore_cleanup_errors=True) as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def mongods(directory: Path) -> Iterator[ReplicaSet]:
    """Of this module alone, because they die here."""
    mongods = ReplicaSet(directory / "set")
    with ExitStack() as at_end:
        at_end.callback(end, mongods)
        mongods.start()
        yield mongods


@pytest.fixture
def nodes(directory: Path, mongods: ReplicaSet) -> Iterator[Callable[[str, int], Nodes]]:
    """Starts the nodes with the named build."""
    with ExitStack() as at_end:

        def start(factory: str, count: int) -> Nodes:
            mongods.wait_until_whole()
            nodes = Nodes(directory / factory[-8:], mongods, factory=factory, database=factory, nodes=count)
            at_end.callback(nodes.stop)
            nodes.start()
            return nodes

        yield start


def attack(nodes: Nodes, kinds: list[str], *, lasts_s: float, peace_s: float) -> tuple[Workload, Nemesis]:
    with httpx.Client(
        base_url=nodes.applications[0].url, headers={"Authorization": f"Bearer {nodes.key}"}, timeout=30
    ) as api:
        stage, tally = prepare(api, members=MEMBERS)
    workload = Workload(stage, tally, nodes.connects, clients=8, pause_s=0.1)
    nemesis = Nemesis(nodes.faults, lasts_s=lasts_s, peace_s=peace_s)
    workload.start()
    nemesis.once_each(kinds)
    return workload, nemesis


def test_a_cluster_under_attack_loses_nothing_doubles_nothing_and_contradicts_nobody(
    nodes: Callable[[str, int], Nodes],
) -> None:
    cluster = nodes("skewable", 2)
    workload, nemesis = attack(cluster, list(cluster.faults), lasts_s=1, peace_s=1)
    tally: Tally = workload.stop()
    verdict = cluster.judge(workload.stage, tally)
    assert verdict.wrong == []
    assert len(nemesis.happened) == len(cluster.faults)
    assert len(tally.acknowledged()) > ENOUGH, "too little happened to prove anything"
    assert tally.refused() > 0
    assert tally.answers["503"] > 0, "nobody noticed that the database was away"


@pytest.mark.parametrize(
    ("build", "fault", "complaint"),
    [
        ("without_keys", "primary killed", "happened 2 times"),
        ("with_write_concern_one", "primary cut off, then killed", "was acknowledged and is lost"),
        ("with_stale_balances", "secondary lagging", "which it never was"),
    ],
)
def test_a_broken_build_is_found_out(
    nodes: Callable[[str, int], Nodes], build: str, fault: str, complaint: str
) -> None:
    broken = nodes(build, 1)
    if build == "without_keys":
        db = connect(broken.mongods.uri, broken.database, serves_requests=False)
        db.ledger.drop_index("keys")
        db.client.close()
    wrong: list[str] = []
    for _ in range(ATTEMPTS):
        workload, _ = attack(broken, [fault] * 3, lasts_s=2, peace_s=1)
        wrong += broken.judge(workload.stage, workload.stop()).wrong
        if any(complaint in each for each in wrong):
            return
    pytest.fail(f"{ATTEMPTS} attacks, and nobody noticed: {wrong[:20]}")
