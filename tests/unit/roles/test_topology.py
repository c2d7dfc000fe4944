"""What the topology derives from an inventory, and what it refuses."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PORTS = {"http": 80, "https": 443, "mongodb": 27017, "redis": 6379}
ANYWHERE = ["0.0.0.0/0", "::/0"]


def load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


topology = load("roles/topology/action_plugins/derive_topology.py")


def derive(layout: dict[str, str], admin_networks: list[str] = ANYWHERE) -> dict[str, Any]:
    """The topology of `layout`: {service: "host host"}. Addresses are 10.0.0.1, .2, ... in the order of names."""
    groups = {service: names.split() for service, names in layout.items()}
    names = sorted({name for members in groups.values() for name in members})
    hosts = {name: {"address": f"10.0.0.{number}"} for number, name in enumerate(names, 1)}
    derived: dict[str, Any] = topology.derive(hosts, groups, PORTS, admin_networks)
    return derived


ONE_BOX = dict.fromkeys(topology.SERVICES, "box1")
THREE = {**ONE_BOX, "mongodb": "box1 db2 db3"}
SPLIT = {"app": "app1", "nginx": "app1", "scheduler": "app1", "storage": "app1", "mongodb": "db1", "redis": "db1"}


def drawn(result: dict[str, Any]) -> set[tuple[str, str, int]]:
    return {(edge["from"], edge["to"], edge["port"]) for edge in result["edges"]}


def test_one_box_listens_to_the_world_only_where_the_world_comes_in() -> None:
    result = derive(ONE_BOX)
    assert result["problems"] == []
    assert drawn(result) == {("admin", "box1", 22), ("any", "box1", 443), ("any", "box1", 80)}
    assert result["hosts"]["box1"]["bind"] == {"mongodb": ["127.0.0.1"], "redis": ["127.0.0.1"]}
    assert result["hosts"]["box1"]["name_address"] == "127.0.0.1"
    assert not result["redis_over_network"]
    assert result["mongodb_members"] == ["box1:27017"]


def test_split_draws_an_edge_from_the_application_to_each_of_its_servers() -> None:
    result = derive(SPLIT)
    assert result["problems"] == []
    assert {("app1", "db1", 27017), ("app1", "db1", 6379)} <= drawn(result)
    assert result["hosts"]["db1"]["bind"] == {"mongodb": ["127.0.0.1", "10.0.0.2"], "redis": ["127.0.0.1", "10.0.0.2"]}
    assert result["hosts"]["db1"]["name_address"] == "10.0.0.2"
    inbound = {edge["port"]: edge["sources"] for edge in result["hosts"]["db1"]["inbound"]}
    assert inbound[27017] == ["10.0.0.1"]
    assert 443 not in inbound


def test_members_of_a_replica_set_reach_each_other() -> None:
    edges = drawn(derive(THREE))
    members = ("box1", "db2", "db3")
    assert {(a, b, 27017) for a in members for b in members if a != b} <= edges


@pytest.mark.parametrize("layout", [ONE_BOX, THREE, SPLIT])
def test_memory_is_divided_completely_and_no_more(layout: dict[str, str]) -> None:
    for host in derive(layout)["hosts"].values():
        assert sum(host["memory_share"].values()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mongodb": "box1 db2"}, "cannot elect a primary"),
        ({"mongodb": ""}, "No host is in group 'mongodb'"),
        ({"redis": "box1 box2"}, "Only one host may be in group 'redis'"),
        ({"scheduler": "box1 box2"}, "Only one host may be in group 'scheduler'"),
        ({"nginx": "edge1"}, "UNIX socket"),
        ({"storage": "nas1"}, "writes files to a path on its own host"),
        ({"redis": "Box_2"}, "no host name that certificates"),
    ],
)
def test_what_cannot_work_is_refused_with_its_reason(change: dict[str, str], reason: str) -> None:
    assert any(reason in problem for problem in derive({**ONE_BOX, **change})["problems"])


def test_a_loopback_address_is_refused_only_when_others_must_reach_it() -> None:
    alone = {"box1": {"address": "127.0.0.1"}}
    groups = {service: ["box1"] for service in topology.SERVICES}
    assert topology.derive(alone, groups, PORTS, ANYWHERE)["problems"] == []
    two = {**alone, "db1": {"address": "10.0.0.2"}}
    problems = topology.derive(two, {**groups, "mongodb": ["db1"]}, PORTS, ANYWHERE)["problems"]
    assert [problem for problem in problems if "which is themselves" in problem]


def test_networks_lose_their_overlaps_and_typing_errors_are_named() -> None:
    result = derive(ONE_BOX, ["10.0.0.0/8", "10.1.0.0/16", "fd00::/8"])
    assert result["admin_networks"] == ["10.0.0.0/8", "fd00::/8"]
    assert derive(ONE_BOX, ["10.0.0.300"])["problems"]
    assert derive(ONE_BOX, [])["problems"]
