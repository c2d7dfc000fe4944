"""A site's own network: one bridge with a free private subnet, and one nft table that masquerades it.

Everything carries the site's tag, so that `remove` takes away what `create` made and nothing else, and two
sites live side by side.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from loyalty.ops.errors import Refusal
from loyalty.ops.process import run

RUN_DIRECTORY = Path("/run/loyalty-lab")
"""Where labs of this machine meet: their locks, and who switched forwarding on. Gone after a restart, as they are."""

_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")
_FORWARDING_SWITCHED = RUN_DIRECTORY / "forwarding-switched-on"
_TABLE_PREFIX = "loyalty_"


def bridge_name(tag: str) -> str:
    """Return the name of the site's bridge (the kernel allows 15 characters; a tag has at most 11)."""
    return f"br-{tag}"


def table_name(tag: str) -> str:
    """Return the name of the site's nft table."""
    return _TABLE_PREFIX + tag


def cuts_table_name(tag: str) -> str:
    """Return the name of the nft table that holds what does not get through."""
    return f"cuts_{tag}"


def choose_subnet(tag: str, taken: Iterable[IPv4Network]) -> IPv4Network:
    """Return a private /24 that overlaps none of ``taken``.

    The search starts at a place that depends on the tag, so a site keeps its addresses from one day to the next
    as long as nobody else took them.
    """
    occupied = [network for network in taken if network.prefixlen > 0]
    start = hashlib.sha256(tag.encode()).digest()[0]
    for pool in ("10.213.0.0/16", "172.29.0.0/16", "192.168.0.0/16"):
        candidates = list(IPv4Network(pool).subnets(new_prefix=24))
        for offset in range(len(candidates)):
            candidate = candidates[(start + offset) % len(candidates)]
            if not any(candidate.overlaps(network) for network in occupied):
                return candidate
    raise Refusal("No private subnet is free on this machine.", "Remove a route that covers the private ranges.")


def taken_networks(
    routes: list[dict[str, Any]], addresses: list[dict[str, Any]], resolv_conf: str
) -> list[IPv4Network]:
    """Return the networks that this machine knows, from `ip -json route|address` and its resolv.conf."""
    texts = [route["dst"] for route in routes if route.get("dst", "default") != "default"]
    texts += [f"{info['local']}/{info['prefixlen']}" for link in addresses for info in link.get("addr_info", [])]
    texts += [line.split()[1] for line in resolv_conf.splitlines() if line.startswith("nameserver ")]
    networks = []
    for text in texts:
        try:
            networks.append(IPv4Network(text, strict=False))
        except ipaddress.AddressValueError:
            continue  # an IPv6 name server
    return networks


def free_subnet(tag: str) -> IPv4Network:
    """Choose a subnet that nothing on this machine uses at this moment."""
    routes = json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"]) or "[]")
    addresses = json.loads(run(["ip", "-json", "-4", "address"]) or "[]")
    return choose_subnet(tag, taken_networks(routes, addresses, Path("/etc/resolv.conf").read_text()))


def create(tag: str, subnet: IPv4Network) -> None:
    """Make the bridge with the first address of the subnet, the masquerade, and switch forwarding on."""
    bridge, gateway = bridge_name(tag), f"{subnet[1]}/{subnet.prefixlen}"
    if not (Path("/sys/class/net") / bridge).exists():
        run(["ip", "link", "add", "name", bridge, "type", "bridge"])
    run(["ip", "address", "replace", gateway, "dev", bridge])
    run(["ip", "link", "set", bridge, "up"])
    table = table_name(tag)
    rules = f"""
table ip {table}
delete table ip {table}
table ip {table} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
  }}
}}
"""
    run(["nft", "--file", "-"], input_text=rules)
    if _FORWARDING.read_text().strip() == "0":
        RUN_DIRECTORY.mkdir(parents=True, exist_ok=True)
        _FORWARDING_SWITCHED.touch()
        _FORWARDING.write_text("1\n")


@dataclass(frozen=True)
class Cut:
    """Frames from one address to another that do not get through: all of them, or so many in a hundred."""

    source: str
    target: str
    percent: int = 100


def cut_rules(tag: str, cuts: Iterable[Cut]) -> str:
    """Return the nft commands that add cuts to those that are there."""
    table = f"bridge {cuts_table_name(tag)}"
    lines = [f"add table {table}", f"add chain {table} forward {{ type filter hook forward priority 0; }}"]
    for cut in cuts:
        chance = "" if cut.percent == 100 else f"numgen random mod 100 < {cut.percent} "
        lines.append(f"add rule {table} forward ip saddr {cut.source} ip daddr {cut.target} {chance}drop")
    return "".join(f"{line}\n" for line in lines)


def cut(tag: str, cuts: Iterable[Cut]) -> None:
    """Let frames between servers of a site disappear, connections that are open included."""
    run(["nft", "--file", "-"], input_text=cut_rules(tag, cuts))


def mend(tag: str) -> None:
    """Let everything through again."""
    if cuts_table_name(tag) in _tables():
        run(["nft", "delete", "table", "bridge", cuts_table_name(tag)])


def remove(tag: str) -> None:
    """Remove what `create` and `cut` made; forwarding goes back to what it was when the last lab leaves."""
    mend(tag)
    table, bridge = table_name(tag), bridge_name(tag)
    if table in _tables():
        run(["nft", "delete", "table", "ip", table])
    if (Path("/sys/class/net") / bridge).exists():
        run(["ip", "link", "delete", bridge])
    if _FORWARDING_SWITCHED.exists() and not any(name.startswith(_TABLE_PREFIX) for name in _tables()):
        _FORWARDING.write_text("0\n")
        _FORWARDING_SWITCHED.unlink()


def _tables() -> list[str]:
    if shutil.which("nft") is None:
        return []  # a machine that had no lab yet: taking one away is nothing to do there
    return [line.split()[-1] for line in run(["nft", "list", "tables"]).splitlines() if line]
