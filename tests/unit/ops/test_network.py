"""The choice of a subnet that collides with nothing on the machine."""

from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loyalty.ops import network
from loyalty.ops.errors import Refusal
from loyalty.ops.network import bridge_name, choose_subnet, table_name, taken_networks

networks = st.builds(
    lambda address, length: IPv4Network((address, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(8, 32),
)


@given(tag=st.text("abcdefghij-0123456789", min_size=1, max_size=11), taken=st.lists(networks, max_size=20))
def test_the_subnet_is_private_and_free(tag: str, taken: list[IPv4Network]) -> None:
    try:
        subnet = choose_subnet(tag, taken)
    except Refusal:
        pools = [IPv4Network(pool) for pool in ("10.213.0.0/16", "172.29.0.0/16", "192.168.0.0/16")]
        assert all(any(network.overlaps(pool) for network in taken) for pool in pools)
        return
    assert subnet.is_private
    assert subnet.prefixlen == 24
    assert not any(subnet.overlaps(network) for network in taken)


def test_a_site_keeps_its_subnet_and_yields_to_others() -> None:
    first = choose_subnet("lab-12ab", [])
    assert choose_subnet("lab-12ab", []) == first
    assert choose_subnet("lab-12ab", [first]) != first


def test_the_default_route_occupies_nothing() -> None:
    assert choose_subnet("lab", [IPv4Network("0.0.0.0/0")]) == choose_subnet("lab", [])


def test_all_pools_taken_is_refused_with_a_remedy() -> None:
    with pytest.raises(Refusal) as refusal:
        choose_subnet("lab", [IPv4Network("10.0.0.0/8"), IPv4Network("172.16.0.0/12"), IPv4Network("192.168.0.0/16")])
    assert refusal.value.remedy


def test_routes_addresses_and_name_servers_count_as_taken() -> None:
    routes: list[dict[str, Any]] = [
        {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "192.0.2.0/24"},
        {"dst": "198.51.100.7"},
    ]
    addresses: list[dict[str, Any]] = [
        {"ifname": "eth0", "addr_info": [{"local": "192.0.2.2", "prefixlen": 24}]},
        {"ifname": "down0"},
    ]
    resolv_conf = "# ours\nsearch example\nnameserver 203.0.113.53\nnameserver 2001:db8::53\n"
    assert taken_networks(routes, addresses, resolv_conf) == [
        IPv4Network("192.0.2.0/24"),
        IPv4Network("198.51.100.7/32"),
        IPv4Network("192.0.2.0/24"),
        IPv4Network("203.0.113.53/32"),
    ]


def test_names_fit_the_kernel() -> None:
    assert len(bridge_name("abcdef-12ab")) <= 15
    assert table_name("lab-12ab") == "loyalty_lab-12ab"


def test_where_no_lab_ever_was_there_is_nothing_to_remove(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`down` before the first `up`, as each rehearsal begins: nftables comes with the first server."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(network, "_FORWARDING", forwarding := tmp_path / "forwarding")
    monkeypatch.setattr(network, "_FORWARDING_SWITCHED", switched := tmp_path / "switched")
    switched.touch()
    network.remove("nosite")
    assert forwarding.read_text() == "0\n"
    assert not switched.exists()
