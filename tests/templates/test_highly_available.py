"""What the roles write where any one host may fail: the example ha, on both systems."""

from __future__ import annotations

import re

import pytest

from tests.templates.render import SYSTEMS, render

systems = pytest.mark.parametrize("system", SYSTEMS)
REDIS = {"ubuntu-22.04": "6.0.16", "debian-12": "7.0.15"}


def settings(template: str, system: str, host: str) -> list[list[str]]:
    """The lines of a configuration, in words, without comments."""
    lines = render(template, system, topology="ha", host=host).splitlines()
    return [line.split() for line in lines if line and not line.startswith("#")]


@systems
@pytest.mark.parametrize("host", ["db1", "db2"])
def test_redis_knows_nothing_of_its_role_but_how_to_present_itself(host: str, system: str) -> None:
    ours = settings("redis/templates/redis.conf.j2", system, host)
    ours += settings("redis/templates/replication.conf.j2", system, host)
    names = [name for name, *_ in ours]
    assert "replicaof" not in names
    assert ["masteruser", "replica"] in ours
    assert ["tls-replication", "yes"] in ours
    # The first address is the source of its connections to other hosts, where 127.0.0.1 would not do.
    assert next(words for words in ours if words[0] == "bind")[1].startswith("192.0.2.")


@systems
def test_a_sentinel_is_closed_and_writes_no_state_of_ours(system: str) -> None:
    ours = settings("redis/templates/sentinel.conf.j2", system, "db1")
    assert ["port", "0"] in ours
    assert ["tls-port", "26379"] in ours
    assert "requirepass" in [name for name, *_ in ours]
    assert not [words for words in ours if words[:2] == ["sentinel", "monitor"]]
    # 6.0 takes addresses only and knows no user for a Sentinel.
    assert not [words for words in ours if "resolve-hostnames" in words]
    names_user = [words for words in ours if words[:2] == ["sentinel", "auth-user"]]
    assert len(names_user) == (0 if REDIS[system].startswith("6.0") else 1)


@systems
def test_every_user_of_redis_may_do_what_it_needs(system: str) -> None:
    rules = settings("redis/templates/users.acl.j2", system, "db1")
    users = {words[1]: words[2:] for words in rules}
    if REDIS[system].startswith("6.0"):
        assert set(users) == {"loyalty", "replica", "default"}
        assert "+@all" not in users["default"]
        assert not [word for rights in users.values() for word in rights if word.startswith("&")]
    else:
        assert set(users) == {"loyalty", "replica", "default", "sentinel"}
        assert users["default"] == ["off"]
    assert all(words == ["off"] or words[1].startswith("#") for words in users.values())
    assert users["replica"][2:] == ["+psync", "+replconf", "+ping"]


@systems
def test_units_of_redis_strip_what_the_daemons_copy_of_our_settings(system: str) -> None:
    for template, kept in (("redis.dropin.j2", "replicaof"), ("redis-sentinel.service.j2", "sentinel")):
        text = render(f"redis/templates/{template}", system, topology="ha", host="db2")
        assert re.search(rf'^ExecStartPre=/bin/sed -i "/\^{kept} /!d" /var/lib/redis/', text, re.MULTILINE)
        assert "IPAddressAllow=192.0.2.11\n" in text, "the application on box1"
        assert "IPAddressAllow=192.0.2.15\n" in text, "db3"
        assert "secret-of-" not in text


@systems
def test_nginx_leaves_the_sites_ports_to_the_balancers(system: str) -> None:
    text = render("nginx/templates/nginx.conf.j2", system, topology="ha", host="box2")
    listens = set(re.findall(r"^\s*listen (\S+)", text, re.MULTILINE))
    assert listens == {"192.0.2.12:8443", "127.0.0.1:8444"}
    assert set(re.findall(r"set_real_ip_from (\S+);", text)) == {"192.0.2.11", "192.0.2.12"}
    assert re.search(r"server_name .* 192\.0\.2\.10 ", text), "the floating address"


@systems
def test_a_balancer_speaks_to_its_peers_and_to_nobody_else(system: str) -> None:
    text = render("balancer/templates/keepalived.conf.j2", system, host="box2")
    peers = re.search(r"unicast_peer \{([^}]*)\}", text)
    assert peers is not None
    assert peers[1].split() == ["192.0.2.11"]
    assert "192.0.2.10/32" in text
    # With a weight a failing check would only lower the priority, which takes as long as a host that dies.
    assert "weight" not in re.sub(r"#.*", "", text)


@systems
def test_nobody_mounts_the_files_who_may_not(system: str) -> None:
    text = render("storage/templates/glusterd.dropin.j2", system, host="db1")
    allowed = set(re.findall(r"IPAddressAllow=(\S+)", text))
    assert allowed == {"localhost", *(f"192.0.2.{number}" for number in (11, 12, 13, 14, 15))}
    mount = render("storage/templates/loyalty-files.service.j2", system, host="box1")
    assert mount.count("--volfile-server=") == 3
    assert "nodev,nosuid,noexec" in mount


@systems
@pytest.mark.parametrize("host", ["box1", "box2"])
def test_each_server_answers_for_every_balancer(host: str, system: str) -> None:
    """A balancer passes connections on unread: which server answers is not for the client to know."""
    names = {
        name.rstrip(";")
        for words in settings("nginx/templates/nginx.conf.j2", system, host)
        if words[0] == "server_name"
        for name in words[1:]
    }
    assert {"box1", "box2", "192.0.2.10", "192.0.2.11", "192.0.2.12"} <= names
