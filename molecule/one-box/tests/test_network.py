"""Only the doors that the topology draws are open, seen from another machine on the network."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

from testinfra.host import Host

from tests.one_box import Box

OPEN = {22, 80, 443}
# All privileged ports, and where databases, caches, exporters and development servers like to listen.
SCANNED = [
    *range(1, 1025),
    3000,
    5000,
    6379,
    6380,
    8000,
    8080,
    8443,
    9090,
    9100,
    16379,
    19531,
    26379,
    27017,
    27018,
    27019,
    28017,
]


def accepts(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1.0):
            return True
    except OSError:
        return False


def test_only_three_ports_are_open(box: Box) -> None:
    with ThreadPoolExecutor(200) as pool:
        answers = pool.map(lambda port: accepts(box.address, port), SCANNED)
    assert {port for port, answer in zip(SCANNED, answers, strict=True) if answer} == OPEN


def test_nothing_listens_beyond_the_topology(host: Host) -> None:
    listeners = {line.split()[3] for line in host.check_output("ss -H -ltn").splitlines()}
    for address in listeners:
        place, port = address.rsplit(":", 1)
        assert int(port) in OPEN or place in ("127.0.0.1", "[::1]", "127.0.0.53%lo"), address


def test_mongodb_listens_on_the_loopback_interface_only(host: Host) -> None:
    assert {line.split()[3] for line in host.check_output("ss -H -ltn 'sport = :27017'").splitlines()} == {
        "127.0.0.1:27017"
    }


def test_redis_has_no_port(host: Host) -> None:
    assert host.check_output("ss -H -ltnp").count("redis") == 0
    assert host.file("/run/redis/redis.sock").is_socket


def test_the_firewall_drops_by_default(host: Host) -> None:
    assert "policy drop" in host.check_output("nft list ruleset")


def test_nothing_waits_on_udp_for_strangers(host: Host) -> None:
    # systemd-networkd may hold a DHCP socket; chrony asks and does not serve.
    for line in host.check_output("ss -H -lun").splitlines():
        place, port = line.split()[3].rsplit(":", 1)
        assert place.startswith(("127.", "[::1]")) or port in ("68", "546"), line
