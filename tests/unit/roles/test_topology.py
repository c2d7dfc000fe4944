"""What the topology derives from an inventory, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from loyalty.ops.site import topologies, topology_groups
from tests.by_path import load

ROOT = Path(__file__).parents[3]
PORTS = yaml.safe_load((ROOT / "roles/topology/defaults/main.yml").read_text())["topology_ports"]
ANYWHERE = ["0.0.0.0/0", "::/0"]


topology = load("roles/topology/action_plugins/derive_topology.py")


def derive(
    layout: dict[str, str],
    admin_networks: list[str] = ANYWHERE,
    variables: dict[str, dict[str, Any]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The topology of `layout`: {service: "host host"}. Addresses are 10.0.0.1, .2, ... in the order of names."""
    groups = {service: names.split() for service, names in layout.items()}
    names = sorted({name for members in groups.values() for name in members})
    hosts = {
        name: {"address": f"10.0.0.{number}", **(variables or {}).get(name, {})} for number, name in enumerate(names, 1)
    }
    derived: dict[str, Any] = topology.derive(hosts, groups, PORTS, admin_networks, **options)
    return derived


ONE_BOX = dict.fromkeys(topology.SERVICES, "box1")
THREE = {**ONE_BOX, "mongodb": "box1 db2 db3"}
HA = {
    **dict.fromkeys(("app", "nginx", "scheduler", "balancer"), "box1 box2"),
    **dict.fromkeys(("mongodb", "redis", "storage"), "db1 db2 db3"),
}
FLOATING = "10.0.0.100"
SPLIT = {"app": "app1", "nginx": "app1", "scheduler": "app1", "storage": "app1", "mongodb": "db1", "redis": "db1"}


def drawn(result: dict[str, Any]) -> set[tuple[str, str, int | str]]:
    return {(edge["from"], edge["to"], edge["port"]) for edge in result["edges"]}


def test_one_box_listens_to_the_world_only_where_the_world_comes_in() -> None:
    result = derive(ONE_BOX)
    assert result["problems"] == []
    assert drawn(result) == {("admin", "box1", 22), ("any", "box1", 443), ("any", "box1", 80)}
    assert result["hosts"]["box1"]["bind"] == {"mongodb": ["127.0.0.1"], "redis": ["127.0.0.1"]}
    assert result["hosts"]["box1"]["name_address"] == "127.0.0.1"
    assert not result["redis_over_network"]
    assert result["mongodb_members"] == [{"host": "box1:27017", "priority": 1, "hidden": False}]
    assert (result["redis_sentinels"], result["balancers"], result["storage_mode"]) == ([], [], "local")


def test_split_draws_an_edge_from_the_application_to_each_of_its_servers() -> None:
    result = derive(SPLIT)
    assert result["problems"] == []
    assert {("app1", "db1", 27017), ("app1", "db1", 6379)} <= drawn(result)
    assert result["hosts"]["db1"]["bind"] == {"mongodb": ["127.0.0.1", "10.0.0.2"], "redis": ["127.0.0.1", "10.0.0.2"]}
    assert result["hosts"]["db1"]["name_address"] == "10.0.0.2"
    inbound = {edge["port"]: edge["sources"] for edge in result["hosts"]["db1"]["inbound"]}
    assert inbound[27017] == ["10.0.0.1"]
    assert 443 not in inbound


def test_each_host_has_the_ssh_port_of_its_own() -> None:
    hosts = derive(THREE, variables={"box1": {"ssh_port": 2222}, "db2": {"ssh_port": 2200}})["hosts"]
    assert {name: host["ssh_port"] for name, host in hosts.items()} == {"box1": 2222, "db2": 2200, "db3": 22}


def test_members_of_a_replica_set_reach_each_other() -> None:
    edges = drawn(derive(THREE))
    members = ("box1", "db2", "db3")
    assert {(a, b, 27017) for a in members for b in members if a != b} <= edges


def test_highly_available_site_is_entered_by_its_balancers_alone() -> None:
    result = derive(HA, virtual_address=FLOATING)
    assert result["problems"] == []
    edges = drawn(result)
    assert {(to, port) for source, to, port in edges if source == "any"} == {
        (box, port) for box in ("box1", "box2") for port in (80, 443)
    }
    assert ("box1", "box2", PORTS["balanced"]) in edges
    assert [
        edge for edge in result["edges"] if edge["proto"] == "vrrp" and edge["from"] == "box2" and edge["to"] == "box1"
    ]


def test_highly_available_site_finds_the_master_of_redis_by_three_sentinels() -> None:
    result = derive(HA, virtual_address=FLOATING)
    assert result["redis_sentinels"] == ["db1:26379", "db2:26379", "db3:26379"]
    edges = drawn(result)
    assert {("box1", "db2", 26379), ("db1", "db2", 26379), ("db1", "db2", 6379), ("box2", "db3", 6379)} <= edges


def test_files_on_other_hosts_are_mounted_from_there() -> None:
    result = derive(HA, virtual_address=FLOATING)
    assert result["storage_mode"] == "gluster"
    assert {("box1", "db1", 24007), ("box1", "db1", PORTS["gluster_bricks"]), ("db1", "db3", 24007)} <= drawn(result)
    elsewhere = derive({**SPLIT, "storage": "db1"})
    assert (elsewhere["problems"], elsewhere["storage_mode"]) == ([], "gluster")
    shared = derive({**HA, "storage": "box1 box2"}, virtual_address=FLOATING, storage_shared=True)
    assert (shared["problems"], shared["storage_mode"]) == ([], "local")
    assert not [edge for edge in shared["edges"] if edge["service"].startswith("gluster")]


def test_a_member_with_priority_0_votes_and_does_not_initiate() -> None:
    result = derive(THREE, variables={"box1": {"mongodb_priority": 0}})
    assert result["problems"] == []
    assert result["mongodb_seed"] == "db2"
    assert [member["priority"] for member in result["mongodb_members"]] == [0, 1, 1]


def test_an_even_number_of_members_is_for_those_who_are_on_the_way() -> None:
    two = {**ONE_BOX, "mongodb": "box1 db2"}
    assert "majority" in " ".join(derive(two)["problems"])
    assert derive(two, even_members=True)["problems"] == []


@pytest.mark.parametrize("name", topologies())
def test_every_example_inventory_can_work(name: str) -> None:
    groups = topology_groups(name)
    variables = yaml.safe_load((ROOT / "inventory" / name / "group_vars/all/main.yml").read_text())
    written = yaml.safe_load((ROOT / "inventory" / name / "hosts.yml").read_text())["loyalty"]["children"]
    hosts: dict[str, dict[str, Any]] = {}
    for group in written.values():
        for host, own in group["hosts"].items():
            hosts.setdefault(host, {"address": f"10.0.0.{len(hosts) + 1}"}).update(own or {})
    derived = topology.derive(hosts, groups, PORTS, ANYWHERE, virtual_address=variables["site_virtual_address"])
    assert derived["problems"] == []
    assert len(derived["mongodb_members"]) in (1, 3)


@pytest.mark.parametrize(
    ("layout", "options"), [(ONE_BOX, {}), (THREE, {}), (SPLIT, {}), (HA, {"virtual_address": FLOATING})]
)
def test_memory_is_divided_completely_and_no_more(layout: dict[str, str], options: dict[str, Any]) -> None:
    for host in derive(layout, **options)["hosts"].values():
        if host["memory_share"]:
            assert sum(host["memory_share"].values()) == pytest.approx(1, abs=0.01)


def assert_refused(result: dict[str, Any], reason: str, remedy: str) -> None:
    """One and the same problem says why, and what to do."""
    assert [problem for problem in result["problems"] if reason in problem and remedy in problem], result["problems"]


@pytest.mark.parametrize(
    ("change", "reason", "remedy"),
    [
        ({"mongodb": "box1 db2"}, "cannot elect a primary", "Use 1 or 3 members"),
        (
            {"mongodb": " ".join(f"db{number}" for number in range(1, 10))},
            "9 members in 'mongodb': a replica set has at most 7 votes",
            "Use 3, 5 or 7",
        ),
        ({"mongodb": ""}, "No host is in group 'mongodb'", "add one under 'mongodb: hosts:'"),
        ({"redis": "box1 box2"}, "2 hosts in 'redis'", "Use 1 or 3"),
        ({"scheduler": "box1 box2"}, "A host in 'scheduler' is not in 'app'", "Add it to 'app'"),
        ({"nginx": "edge1"}, "UNIX socket", "List the same hosts in both"),
        ({"storage": "nas1 nas2"}, "2 hosts in 'storage'", "Use 1 or 3"),
        ({"app": "box1 box2", "nginx": "box1 box2"}, "none in 'balancer'", "Add the hosts that share"),
        ({"balancer": "box1"}, "site_virtual_address is not set", "Set it to a free address"),
        ({"redis": "Box_2"}, "no host name that certificates", "Use lower-case letters"),
    ],
)
def test_what_cannot_work_is_refused_with_reason_and_remedy(change: dict[str, str], reason: str, remedy: str) -> None:
    assert_refused(derive({**ONE_BOX, **change}), reason, remedy)


@pytest.mark.parametrize(
    ("variables", "reason", "remedy"),
    [
        ({"db3": {"mongodb_arbiter": True}}, "an arbiter", "give the host mongodb_priority: 0"),
        ({"db3": {"mongodb_hidden": True}}, "could be elected", "Set its mongodb_priority to 0"),
        ({name: {"mongodb_priority": 0} for name in ("box1", "db2", "db3")}, "none could lead", "Leave it out for one"),
    ],
)
def test_members_that_would_fail_the_others_are_refused(
    variables: dict[str, dict[str, Any]], reason: str, remedy: str
) -> None:
    assert_refused(derive(THREE, variables=variables), reason, remedy)


def test_two_members_on_one_machine_are_refused() -> None:
    one_machine = {"db2": {"address": "10.0.0.2"}, "db3": {"address": "10.0.0.2"}}
    reason = "'db2' and 'db3' in 'mongodb' have the same address (10.0.0.2)"
    assert_refused(derive(THREE, variables=one_machine), reason, "Set ansible_host")


def test_members_whose_addresses_nobody_knows_are_not_taken_for_one_machine() -> None:
    away = {"db2": {"address": ""}, "db3": {"address": ""}}
    assert derive(THREE, variables=away, hosts_may_be_away=True)["problems"] == []


def test_a_floating_address_needs_a_balancer_that_holds_it() -> None:
    result = derive(ONE_BOX, virtual_address=FLOATING)
    assert_refused(result, "no host is in group 'balancer'", "Add the hosts that share it, or leave it empty")


@pytest.mark.parametrize("address", ["fd00::100", "loyalty.example.test", "10.0.0.300"])
def test_a_floating_address_is_of_the_fourth_version(address: str) -> None:
    result = derive(HA, virtual_address=address)
    assert_refused(result, f"'{address}') is no IPv4 address", "Set it to a free address of the hosts' network")


@pytest.mark.parametrize("service", [*topology.SERVICES, *topology.OPTIONAL_SERVICES])
def test_a_group_outside_the_site_is_named(service: str) -> None:
    groups = {**{name: ["box1"] for name in topology.SERVICES}, service: ["box1", "spare"]}
    result = topology.derive({"box1": {"address": "10.0.0.1"}}, groups, PORTS, ANYWHERE)
    assert_refused(result, f"'spare' is in group '{service}' but not under 'loyalty'", "Put the group under 'loyalty:")


def test_an_address_that_nobody_knows_stops_all_but_those_who_look() -> None:
    away = {"db2": {"address": ""}}
    assert_refused(derive(THREE, variables=away), "The address of 'db2' is unknown", "Set topology_host_address for it")
    assert derive(THREE, variables=away, hosts_may_be_away=True)["problems"] == []


FILES_AND_BACKUPS_ON_DB2 = {**THREE, "storage": "db2", "backup": "db2"}


@pytest.mark.parametrize(
    ("layout", "only_copy"),
    [
        ({**ONE_BOX, "backup": "box1"}, "the database and the files"),
        ({**SPLIT, "backup": "db1"}, "the database"),
        ({**SPLIT, "backup": "app1"}, "the files"),
        ({**THREE, "backup": "box1"}, "the files"),
        (FILES_AND_BACKUPS_ON_DB2, "the files"),
    ],
)
def test_backups_beside_the_only_copy_need_a_disk_of_their_own(layout: dict[str, str], only_copy: str) -> None:
    keeper = layout["backup"]
    reason = f"Backups on '{keeper}' would be on the disk of the only copy of {only_copy}"
    assert_refused(derive(layout), reason, "Set backup_device there to another disk")
    assert derive(layout, variables={keeper: {"backup_device": "/dev/sdb"}})["problems"] == []


def test_backups_beside_the_only_copy_may_be_tried_without_a_disk_of_their_own() -> None:
    for layout in ({**ONE_BOX, "backup": "box1"}, FILES_AND_BACKUPS_ON_DB2):
        told = {layout["backup"]: {"backup_same_disk_enabled": True}}
        assert_refused(derive(layout), "one broken disk would take both", "backup_same_disk_enabled: true")
        assert derive(layout, variables=told)["problems"] == []


def test_backups_beside_one_copy_of_several_lose_nothing_with_their_disk() -> None:
    assert derive({**THREE, "backup": "db2"})["problems"] == []
    assert derive({**HA, "backup": "db1"}, virtual_address=FLOATING)["problems"] == []


def test_files_on_a_disk_or_share_of_their_own_are_not_beside_the_backups() -> None:
    files_apart = {"db2": {"storage_device": "/dev/sdb"}}
    assert derive(FILES_AND_BACKUPS_ON_DB2, variables=files_apart)["problems"] == []
    one_box = derive({**ONE_BOX, "backup": "box1"}, variables={"box1": {"storage_device": "/dev/sdb"}})
    assert_refused(one_box, "the only copy of the database:", "backup_device")


def test_whoever_keeps_backups_fetches_them_and_nobody_reaches_it() -> None:
    result = derive({**HA, "backup": "keep1"}, variables={"db2": {"ssh_port": 2222}}, virtual_address=FLOATING)
    assert result["problems"] == []
    keeper = {(to, port) for source, to, port in drawn(result) if source == "keep1"}
    assert keeper == {
        ("db1", 27017), ("db2", 27017), ("db3", 27017),
        ("db1", 22), ("db2", 2222), ("db3", 22), ("box1", 22), ("box2", 22),
    }  # by hand: a line holds what belongs together  # fmt: skip
    assert {source for source, to, _ in drawn(result) if to == "keep1"} == {"admin"}


def test_one_host_keeps_backups() -> None:
    problems = derive({**HA, "backup": "keep1 keep2"}, virtual_address=FLOATING)["problems"]
    assert [problem for problem in problems if "2 hosts in 'backup'" in problem]


def test_a_host_without_a_part_is_named() -> None:
    hosts = {"box1": {"address": "10.0.0.1"}, "spare": {"address": "10.0.0.2"}}
    groups = {service: ["box1"] for service in topology.SERVICES}
    assert [problem for problem in topology.derive(hosts, groups, PORTS, ANYWHERE)["problems"] if "'spare'" in problem]


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
