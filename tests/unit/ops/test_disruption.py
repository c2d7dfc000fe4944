"""What goes wrong between lab servers on purpose: the rules, the switches, and the slow cable."""

from __future__ import annotations

from pathlib import Path

import pytest

from loyalty.ops.cgroups import freeze
from loyalty.ops.network import Cut, cut_rules, cuts_table_name, table_name
from loyalty.ops.slow_link import Cable


def test_a_cut_has_a_direction_and_may_lose_a_part() -> None:
    cuts = [Cut("10.213.4.11", "10.213.4.12"), Cut("10.213.4.12", "10.213.4.11", percent=5)]
    assert cut_rules("jep-1a2b", cuts).splitlines() == [
        "add table bridge cuts_jep-1a2b",
        "add chain bridge cuts_jep-1a2b forward { type filter hook forward priority 0; }",
        "add rule bridge cuts_jep-1a2b forward ip saddr 10.213.4.11 ip daddr 10.213.4.12 drop",
        "add rule bridge cuts_jep-1a2b forward ip saddr 10.213.4.12 ip daddr 10.213.4.11 "
        "numgen random mod 100 < 5 drop",
    ]


def test_cuts_do_not_keep_a_site_alive() -> None:
    """Forwarding is switched off with the last table that begins like a site's."""
    assert not cuts_table_name("jep-1a2b").startswith(table_name(""))


@pytest.mark.parametrize(
    ("switch", "answer", "stopped", "going"),
    [("freezer.state", "freezer.state", "FROZEN", "THAWED"), ("cgroup.freeze", "cgroup.freeze", "1", "0")],
)
def test_freezing_flips_the_switch_of_either_version(
    tmp_path: Path, switch: str, answer: str, stopped: str, going: str
) -> None:
    others, group = tmp_path / "memory", tmp_path / "freezer"
    for directory in (others, group):
        directory.mkdir()
    (group / switch).touch()
    # In version 2 the kernel answers in a file of its own; nobody plays the kernel here, so it has said both already.
    (group / "cgroup.events").write_text("populated 1\nfrozen 1\nfrozen 0\n")
    freeze([others, group], frozen=True)
    assert (group / answer).read_text() == stopped
    freeze([others, group], frozen=False)
    assert (group / answer).read_text() == going
    assert not list(others.iterdir())


def test_where_both_versions_could_freeze_one_does(tmp_path: Path) -> None:
    unified, freezer = tmp_path / "unified", tmp_path / "freezer"
    for directory, switch in ((unified, "cgroup.freeze"), (freezer, "freezer.state")):
        directory.mkdir()
        (directory / switch).touch()
    freeze([unified, freezer], frozen=True)
    assert (freezer / "freezer.state").read_text() == "FROZEN"
    assert (unified / "cgroup.freeze").read_text() == ""


def test_a_cable_delivers_late_and_in_order_to_the_right_end() -> None:
    left: list[bytes] = []
    right: list[bytes] = []
    cable = Cable(0.1, 0)
    cable.put(1.00, left.append, b"a")
    cable.put(1.00, right.append, b"b")
    cable.put(1.05, left.append, b"c")
    cable.deliver(1.09)
    assert (left, right) == ([], [])
    assert cable.wait_s(1.09) == pytest.approx(0.01)
    cable.deliver(1.14)
    assert (left, right) == ([b"a"], [b"b"])
    cable.deliver(1.20)
    assert left == [b"a", b"c"]
    assert cable.wait_s(1.20) is None


def test_a_cable_loses_what_chance_wants() -> None:
    arrived: list[bytes] = []
    chances = iter([0.04, 0.05, 0.9])
    cable = Cable(0, 0.05, lambda: next(chances))
    for frame in (b"lost", b"kept", b"kept too"):
        cable.put(0, arrived.append, frame)
    cable.deliver(0)
    assert arrived == [b"kept", b"kept too"]
