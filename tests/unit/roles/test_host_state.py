"""What a host says of its copy of the files, its Sentinel and its balancer, read from what their programs print."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.by_path import load

host_state = load("roles/verify/library/host_state.py")

POOL = """\
UUID\t\t\t\t\tHostname \tState
0c9b4a0e-4f2e-4d51-9a53-6f7e0a0f2a11\tdb2      \t{db2}
5d1f7f5c-9d3a-4a65-8f0e-2b8c1c3d4e22\tdb3      \tConnected
f2f7a5b0-3c76-4d0e-8a4d-7a6b5c4d3e33\tlocalhost\tConnected
"""
HEAL = """\
Brick db1:/var/lib/loyalty-files/brick
/files/2026/11/receipt.pdf
<gfid:3f0b1c9a-5a53-4c1f-9b5e-8a3b9a1c2d44>
Status: Connected
Number of entries: 2

Brick db2:/var/lib/loyalty-files/brick
Status: Transport endpoint is not connected
Number of entries: -

Brick db3:/var/lib/loyalty-files/brick
Status: Connected
Number of entries: 0

"""


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What programs say, by the beginning of their command."""
    answers: dict[str, str] = {}

    def said(*command: str, env: dict[str, str] | None = None) -> str:
        return next((answer for words, answer in answers.items() if " ".join(command).startswith(words)), "")

    monkeypatch.setattr(host_state, "said", said)
    return answers


@pytest.fixture
def brick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with the number of a process that serves this host's copy: this very process."""
    monkeypatch.setattr(host_state, "BRICKS", tmp_path)
    file = tmp_path / "db1-var-lib-loyalty-files-brick.pid"
    file.write_text(f"{host_state.os.getpid()}\n")
    return file


def test_copies_that_are_served_and_wait_for_each_other(programs: dict[str, str], brick: Path) -> None:
    programs |= {"gluster pool list": POOL.format(db2="Connected"), "gluster volume heal loyalty info": HEAL}
    assert host_state.files_state() == {
        "served": True,
        "peers": {"db2": True, "db3": True},
        "waiting": {"db1": 2, "db2": None, "db3": 0},
    }


def test_while_a_file_server_is_away_nobody_waits_for_its_copy(programs: dict[str, str], brick: Path) -> None:
    programs |= {"gluster pool list": POOL.format(db2="Disconnected"), "gluster volume heal loyalty info": HEAL}
    found = host_state.files_state()
    assert (found["peers"], found["waiting"]) == ({"db2": False, "db3": True}, {})


@pytest.mark.parametrize("left", ["999999999\n", "\n"])
def test_a_copy_whose_process_is_gone_is_not_served(programs: dict[str, str], brick: Path, left: str) -> None:
    brick.write_text(left)
    assert host_state.files_state()["served"] is False
    brick.unlink()
    assert host_state.files_state() == {"served": False, "peers": {}, "waiting": {}}


def test_what_the_balancer_says_of_each_node(programs: dict[str, str]) -> None:
    programs["/usr/local/sbin/balancer-nodes"] = "box1 UP\nbox2 DOWN Layer7 wrong status 503\n"
    assert host_state.balanced_nodes() == {"box1": "UP", "box2": "DOWN Layer7 wrong status 503"}


def test_a_sentinel_is_asked_with_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def said(*command: str, env: dict[str, str]) -> str:
        asked.append((command, env))
        return "OK 3 usable\n"

    monkeypatch.setattr(host_state, "said", said)
    assert host_state.sentinel_state(26379, "secret") == "OK 3 usable"
    ((command, env),) = asked
    assert command[-5:] == ("-p", "26379", "sentinel", "ckquorum", "loyalty")
    assert env == {"REDISCLI_AUTH": "secret"}
    assert "secret" not in command
